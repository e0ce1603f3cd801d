"""Sizes as people write and read them."""

from __future__ import annotations

import re
from decimal import Decimal

SIZE = re.compile(r"\s*([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*(?:([KMGT])(i?))?B?\s*", re.IGNORECASE)
SIZES = "a number of bytes above 0, such as 8GiB, 500MB or 8000000000"
PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
UNITS = "8GiB is 8 * 1024**3 bytes, 8GB is 8 * 1000**3"


def in_bytes(given: object) -> int | None:
    """Bytes of a size: a whole number, or a text such as ``8GiB``, ``1.5 GB``, ``500M`` or ``8000000000``.

    Args:
        given: What the caller gave; units may be in small letters.

    Returns:
        A number above 0; None if this is no size.
    """
    match = SIZE.fullmatch(given) if isinstance(given, str) else None
    if match is not None:
        power = " KMGT".index((match[2] or " ").upper())
        given = int(Decimal(match[1]) * (1024 if match[3] else 1000) ** power)
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        return None
    return given


def shown_size(size: float) -> str:
    """Bytes to read, in powers of 1000 as everywhere in this package: ``10.6 MB``."""
    return prefixed(size, "B")


def prefixed(value: float, unit: str = "") -> str:
    """A number in three figures, such as ``2.15 G``; with a unit ``2.15 GB``."""
    for size, letter in PREFIXES:
        if abs(value) >= 0.9995 * size:
            return f"{three_figures(value / size)} {letter}{unit}"
    # what is counted one by one has no digits after the point
    text = str(int(value)) if value == int(value) else three_figures(value)
    return f"{text} {unit}".rstrip()


def three_figures(value: float) -> str:
    """Three figures, none after the point that are not among them."""
    if value == 0 or abs(value) >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"
