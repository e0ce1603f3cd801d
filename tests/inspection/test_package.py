"""The package's public names, and that looking at a recording is light."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from starquant_fx import inspection
from starquant_fx.inspection.collection import to_json
from tests.inspection.test_recorder import recorded


def test_public_names_are_there() -> None:
    assert sorted(inspection._HOMES) == sorted(inspection.__all__)
    for name in inspection.__all__:
        assert getattr(inspection, name).__name__ == name
    assert set(inspection.__all__) <= set(dir(inspection))
    with pytest.raises(AttributeError, match="nothing"):
        _ = inspection.nothing


def test_a_recording_is_looked_at_without_torch(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(to_json(recorded("odd", "rtn-w8a8")[0]))
    code = (
        "import json, sys\n"
        "from starquant_fx.cli.app import app\n"
        f"app(['inspect', '--recording', {str(file)!r}, '--html', {str(tmp_path / 'a.html')!r}, '--passes',"
        " '--analysis', 'all'], standalone_mode=False)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}
    assert "networkx" in loaded
    assert loaded.isdisjoint({"torch", "transformers", "triton"})
