"""Sizes as people write them."""

from __future__ import annotations

import re
from decimal import Decimal

SIZE = re.compile(r"\s*([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*(?:([KMGT])(i?))?B?\s*", re.IGNORECASE)
SIZES = "a number of bytes above 0, such as 8GiB, 500MB or 8000000000"
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
