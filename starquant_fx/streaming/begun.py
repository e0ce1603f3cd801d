"""What an earlier run left beside a result, looked at from outside: nothing here is changed or relied on."""

from __future__ import annotations

import json
import os
from pathlib import Path

from starquant_fx.models.folder import PLAN
from starquant_fx.streaming.place import unfinished


def parts_done(folder: str | os.PathLike[str]) -> tuple[int, int]:
    """How many parts of how many the unfinished run of a result has done; (0, 0) where there is none.

    Args:
        folder: Of the result, as of ``compile_folder``.
    """
    try:
        left = unfinished(Path(folder).resolve())
        plan = json.loads((left / PLAN).read_text(encoding="utf-8"))
        done = sum(1 for _ in left.glob("part-*.json"))
        return (done, len(plan["parts"])) if done else (0, 0)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, RecursionError):
        return 0, 0  # the run itself says what is wrong
