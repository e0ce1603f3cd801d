"""Regular expressions of recipes, which come from files: only those that cannot take forever are taken."""

from __future__ import annotations

import re

from starquant_fx.errors import RecipeError

LONGEST = 500
"""Characters of a pattern."""
MOST_REPEATS = 4
"""Repetitions of a pattern. Each multiplies the time at most by the length of a name, unless one is inside another."""
_PIECE = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?|.", re.DOTALL)
"""An escape, a set of characters, the beginning of a group that is a special one, or any other character."""


def check_pattern(text: str, where: str) -> None:
    """Checks a regular expression that names are compared with.

    Args:
        text: The expression.
        where: What it stands in, for the error.

    Raises:
        RecipeError: It is malformed, or could take time that grows without bounds: it repeats a group or refers back
            to one, repeats more than ``MOST_REPEATS`` times, or is too long.
    """
    try:
        if len(text) <= LONGEST:
            re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise RecipeError(
            "malformed regular expression",
            where=where[:LONGEST],
            expected="a regular expression of Python",
            got=str(error) or type(error).__name__,
            hint="escape what is meant literally with a backslash",
        ) from error
    if len(text) > LONGEST:
        raise _too_slow(where, f"{len(text)} characters")
    pieces = _PIECE.findall(text)
    repeats = [i for i, piece in enumerate(pieces) if piece in ("*", "+", "?", "{")]
    if len(repeats) > MOST_REPEATS:
        raise _too_slow(where, f"{len(repeats)} repetitions")
    if any(pieces[i] != "?" and i and pieces[i - 1] == ")" for i in repeats):
        raise _too_slow(where, "a group that is repeated")
    if "(?P=" in text or "(?(" in text or re.search(r"\\[1-9]", text):
        raise _too_slow(where, "a reference to a group")


def _too_slow(where: str, got: str) -> RecipeError:
    return RecipeError(
        "a regular expression could take forever",
        where=where[:LONGEST],
        expected=f"at most {LONGEST} characters and {MOST_REPEATS} repetitions (* + ? {{}}), none of a group",
        got=got,
        hint="name the sites one by one, or write several patterns",
    )
