"""The example in CONTRIBUTING is a pass."""

import re
import textwrap
from pathlib import Path
from typing import Any

from starquant_fx.pass_base import Pass, Preserves


def test_the_example_pass_of_contributing_is_one(root: Path) -> None:
    text = (root / "CONTRIBUTING.md").read_text()
    (source,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    exec(textwrap.dedent(source), names)
    one = names["FoldScales"](limit=100.0)
    assert isinstance(one, Pass)
    assert one.preserves is Preserves.NUMERICALLY
    assert f"`{one}`" in text
