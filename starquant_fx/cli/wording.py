"""Refusals in the words of the command line: what the library calls an argument is an option here."""

from __future__ import annotations

import re

from starquant_fx.errors import StarQuantError

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
