"""Every error that StarQuant FX raises on purpose, in one place.

An error is part of the product: it says what happened, where, what was expected, what was got, and what to do.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable


class StarQuantError(Exception):
    """Base class of all refusals.

    Args:
        what: What happened, one sentence.
        where: The thing it happened to (a file, tensor, node, option, pass).
        expected: What would have been accepted.
        got: What was found instead.
        hint: What to do about it.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        got: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.expected = expected
        self.got = got
        self.hint = hint
        self.during: str | None = None
        """The pass that was running and those before it; the pass manager sets it."""
        super().__init__(what)

    def __str__(self) -> str:
        """Returns the message, a line for each part that is known."""
        parts = (
            ("where", self.where),
            ("expected", self.expected),
            ("got", self.got),
            ("in pass", self.during),
            ("do", self.hint),
        )
        return "\n".join([self.what, *(f"  {name}: {text}" for name, text in parts if text)])


class RecipeError(StarQuantError):
    """A recipe, pass option or bit width that does not exist or does not fit."""


class ConfigError(StarQuantError):
    """A model configuration that lacks keys, has wrong values, or names an unsupported model."""


class CheckpointError(StarQuantError):
    """A checkpoint folder or file that cannot be read, or does not match its configuration."""


class InputError(StarQuantError):
    """Token ids, masks, prompts or generation arguments that do not fit the model."""


class CalibrationError(StarQuantError):
    """Calibration data that is empty, unusable or not finite."""


class CaptureError(StarQuantError):
    """A model that cannot be traced, or whose graph lacks what the passes need."""


class PassError(StarQuantError):
    """A pass that ran out of order, or whose result does not hold what it ensures."""


class LoweringError(StarQuantError):
    """A target that does not exist, or cannot take the program."""


class StaleParametersError(StarQuantError):
    """Parameters of a model that changed after the model was compiled."""


def not_finite(where: str) -> InputError:
    """The refusal of activations that a site cannot quantize, whichever kernel it has.

    Args:
        where: The operator.
    """
    return InputError(
        "a site cannot quantize its input",
        where=where,
        expected="finite activations, and a range of each token that float32 holds",
        got="NaN or Inf",
        hint="check the model's weights and dtype",
    )


def exit_code(job: Callable[[], object]) -> int:
    """Runs a command's job. Returns 0, or 2 if it is refused; a refusal goes to standard error without a traceback."""
    try:
        job()
    except StarQuantError as error:
        print(f"error: {plain(str(error))}", file=sys.stderr)
        return 2
    return 0


def plain(text: str) -> str:
    """A text as it may be printed: control characters, which a terminal would obey, are escaped; lines are kept."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Returns a sentence that offers the known name closest to a misspelt one.

    Args:
        name: What the user wrote.
        known: The names that exist.

    Returns:
        ``"did you mean 'x'?"``, or None if nothing is close.
    """
    close = closest(name, known)
    return f"did you mean {close!r}?" if close else None


def closest(name: str, known: Iterable[str]) -> str | None:
    """Returns the known name closest to a misspelt one, or None if nothing is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return close[0] if close else None


def cause(error: BaseException) -> str:
    """Returns the class and the beginning of the text of a library's error, for the "got" of our own."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__
