"""What commands say alike: refusals, where an argument of the library is an option, and what was written."""

from __future__ import annotations

import re
from pathlib import Path

from starquant_fx.errors import StarQuantError
from starquant_fx.sizes import shown_size

NAMES = (
    *("target", "device", "calibration", "cache", "recipe", "artifact", "steps"),
    *("flavour", "head", "opset", "verify"),
)
"""Arguments that are options of the same name."""
OTHER_NAMES = {"gen_length": "--length"}
_WORDS = (
    ("compile(..., device='cpu')", "--device cpu"),
    ("leave the argument out", "leave the option out"),
    ("verify=False", "--no-verify"),
    ("force=True", "--force"),
)
_ARGUMENT = re.compile(rf"\b({'|'.join(NAMES)})='(\w+)'")


def written(folder: Path) -> str:
    """A folder with what its files take, such as ``llada-w4a4 (9.21 MB)``."""
    return f"{folder} ({shown_size(sum(file.stat().st_size for file in folder.iterdir()))})"


def as_options(error: StarQuantError) -> StarQuantError:
    """Names options instead of arguments, in place, and returns the error."""
    if error.where in NAMES:
        error.where = f"--{error.where}"
    elif error.where is not None:
        error.where = OTHER_NAMES.get(error.where, error.where)
    for part in ("expected", "got", "hint"):
        text = getattr(error, part)
        if text is not None:
            for old, new in _WORDS:
                text = text.replace(old, new)
            setattr(error, part, _ARGUMENT.sub(r"--\1 \2", text))
    return error
