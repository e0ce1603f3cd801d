"""What a file may hold: numbers that can be computed with, texts that can be written, and names of sane lengths."""

from __future__ import annotations

import math
import re
from typing import Any

from starquant_fx.cost.shapes import parse_shape
from starquant_fx.errors import InputError

LARGEST = 1e300
"""Of a number: sums and ratios of a few are finite, too."""
WHOLE = 2**63
"""Of a whole number, without its sign."""
LONGEST = 4096
"""Characters of a name."""
DEEPEST = 100
"""Parts of a module's path."""
NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""How ``packing.number`` writes what JSON has no number for."""


def text(value: Any) -> str:
    """Any text that can be written.

    Raises:
        TypeError: It is no text.
        ValueError: It has half of a character, which no file can hold.
    """
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is no text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{value!r:.80} has half of a character") from error
    return value


def name(value: Any) -> str:
    """A name.

    Raises:
        TypeError, ValueError: It is none, or too long.
    """
    if len(text(value)) > LONGEST:
        raise ValueError(f"{value!r:.80}... has more than {LONGEST} characters")
    return str(value)


def path(value: Any) -> str:
    """The path of a module, its parts separated by dots.

    Raises:
        TypeError, ValueError: It is none, or too deep.
    """
    if name(value).count(".") >= DEEPEST:
        raise ValueError(f"{value!r:.80}... has more than {DEEPEST} parts")
    return str(value)


def whole(value: Any) -> int:
    """A whole number.

    Raises:
        TypeError, ValueError: It is none, or too large.
    """
    if type(value) is not int:
        raise TypeError(f"{value!r:.80} is no whole number")
    if abs(value) > WHOLE:
        raise ValueError("a number is too large")
    return value


def number(value: Any) -> float:
    """A number.

    Raises:
        TypeError, ValueError: It is none, not finite, or too large.
    """
    if type(value) is int:
        return float(whole(value))
    if not isinstance(value, float):
        raise TypeError(f"{value!r:.80} is no number")
    if not abs(value) < LARGEST:
        raise ValueError(f"the number {value} is not finite or too large")
    return value


def index(value: Any) -> int:
    """A number from 0, as text.

    Raises:
        TypeError, ValueError: It is none.
    """
    if not re.fullmatch(r"[0-9]{1,18}", text(value)):
        raise ValueError(f"{value!r:.80} is no number from 0")
    return int(value)


def error(value: Any) -> float:
    """An error that was measured; a model can make it NaN or infinite.

    Raises:
        TypeError, ValueError: It is none.
    """
    return NOT_FINITE[value] if isinstance(value, str) and value in NOT_FINITE else number(value)


def tokens(value: Any) -> str:
    """The forward that is counted, such as ``1x1024``.

    Raises:
        TypeError, ValueError: It is none.
    """
    try:
        parse_shape(name(value))
    except InputError as refusal:
        raise ValueError(f"{value!r:.80} is no shape of tokens") from refusal
    return str(value)
