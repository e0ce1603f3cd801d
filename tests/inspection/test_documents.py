"""What docs/inspection.md shows in Python runs as it stands."""

import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[2] / "docs" / "inspection.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^ *```python\n(.*?)^ *```", TEXT, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_examples_in_python_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.export.small import compiled

    monkeypatch.chdir(tmp_path)
    known = {"compiled": compiled("odd")}
    for block in BLOCKS:
        exec("\n".join(line.strip() for line in block.splitlines()), known)
    assert {path.name for path in tmp_path.iterdir()} == {"llada.pt2", "r.json", "r.html"}
