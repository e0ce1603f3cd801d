"""What loading a folder came to, and whether it may come to that."""

from __future__ import annotations

import dataclasses
import os
import traceback
from collections.abc import Callable
from pathlib import Path

from checkpoint_fuzz.limits import Limits, Memory, TooLong, at_most
from starquant_fx.errors import StarQuantError

FINE = ("refused", "identical", "forged")
PACKAGE = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Of one case.

    Attributes:
        outcome: ``refused``, ``identical`` (nothing that matters was changed) or ``forged`` (loaded, with values that
            no hash holds to); else a defect: ``raised``, ``incomplete``, ``slow``, ``large``, ``different``, ``died``.
        detail: The error, or what differs.
        place: Where it was raised, to tell defects apart.
        memory: Bytes taken.
    """

    outcome: str
    detail: str
    place: str = ""
    memory: int = 0

    @property
    def fine(self) -> bool:
        """Whether it is no defect."""
        return self.outcome in FINE


def judge(attempt: Callable[[], str], forged: bool, limits: Limits, mapped: int = 0) -> Verdict:
    """Loads a folder.

    Args:
        attempt: Loads it and says what differs from the sound one; an empty text if nothing does.
        forged: Whether something may.
        limits: Of time and memory.
        mapped: Bytes of the folder's files.

    Returns:
        What it came to.
    """
    memory = Memory(mapped)
    try:
        with at_most(limits.seconds):
            difference = attempt()
        verdict = Verdict("identical", "")
        if difference:
            verdict = Verdict("forged" if forged else "different", difference)
    except StarQuantError as error:
        verdict = _refusal(error)
    except TooLong as error:
        verdict = Verdict("slow", f"longer than {limits.seconds} s", _place(error))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        verdict = Verdict("raised", f"{type(error).__name__}: {error}"[:300], _place(error))
    taken = memory.taken()
    if verdict.fine and taken > limits.memory:
        verdict = Verdict("large", f"{taken >> 20} MiB; {verdict.detail}", verdict.place)
    return dataclasses.replace(verdict, memory=taken)


def _refusal(error: StarQuantError) -> Verdict:
    """A refusal, unless it lacks a part or comes from memory that ran out."""
    lacking = [
        part for part in ("what", "where", "expected", "got", "hint") if not getattr(error, part)
    ]
    text, place = f"{type(error).__name__}: {str(error)[:400]}", _place(error)
    if lacking:
        return Verdict("incomplete", f"no {', '.join(lacking)}: {text}", place)
    cause: BaseException | None = error
    while cause is not None:
        said = str(cause)
        if isinstance(cause, MemoryError) or "allocate memory" in said or "Cannot allocate" in said:
            return Verdict("large", f"asked for more than there is: {text}", place)
        cause = cause.__cause__ or cause.__context__
    return Verdict("refused", text, place)


def _place(error: BaseException) -> str:
    """The last line of the package that was running."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if "checkpoint_fuzz" not in f.filename
    ]
    ours = [f for f in frames if f.filename.startswith(str(PACKAGE))] or frames
    if not ours:
        return ""
    return f"{os.path.relpath(ours[-1].filename, PACKAGE)}:{ours[-1].lineno} {ours[-1].name}"
