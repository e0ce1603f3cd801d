"""Bytes of values by their types and sizes, such as ``bf16[B, L, 4096]``, for the tokens of a recording."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Mapping

BITS = {"b1": 8, "f64": 64, "f32": 32, "f16": 16, "bf16": 16}
BITS |= {f"{sign}{n}": n for sign in "iu" for n in (8, 16, 32, 64)}
"""Of an element as stored, by its type."""
DIGITS = r"\d{1,18}"
"""Of a number that has a meaning: a file may hold any text."""
MOST = 2**63
"""Elements of a value."""
CODES = ("u8", "i8")
"""Types that codes are stored in."""
_OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def element(kind: str) -> str:
    """The type of a value, such as ``bf16``."""
    return kind.partition("[")[0]


def is_float(kind: str) -> bool:
    """Whether a value's elements are floats."""
    return element(kind) in ("f64", "f32", "f16", "bf16")


def symbols(tokens: str) -> dict[str, int]:
    """Values of B, L and R (all positions) of a forward such as ``1x1024``; empty where it is none."""
    match = re.fullmatch(rf"({DIGITS})x({DIGITS})", tokens)
    if match is None:
        return {}
    batch, length = int(match[1]), int(match[2])
    return {"B": batch, "L": length, "R": batch * length}


def value_bytes(kind: str, values: Mapping[str, int]) -> float:
    """Bytes of a value as stored.

    Args:
        kind: Its type and sizes.
        values: Of the symbols in the sizes.

    Returns:
        Bytes; 0 where a size cannot be computed from the symbols, or is none.
    """
    short, _, sizes = kind.rstrip("]").partition("[")
    counts = [_size(text, values) for text in sizes.split(", ") if text]
    if any(count is None for count in counts):
        return 0.0
    elements = math.prod(count or 0 for count in counts)
    return BITS.get(short, 0) / 8 * elements if 0 <= elements < MOST else 0.0


def constant_bytes(kind: str) -> int:
    """Bytes of a constant, whose sizes are numbers, such as ``u8[4, 8192]``."""
    return int(value_bytes(kind, {}))


def _size(text: str, values: Mapping[str, int]) -> int | None:
    """A size; an expression is computed by its syntax tree, because a file may hold any text."""
    if re.fullmatch(DIGITS, text):
        return int(text)
    try:
        tree = ast.parse(text, mode="eval").body if len(text) < 200 else None
    except (SyntaxError, ValueError):
        return None
    return None if tree is None else _value(tree, values)


def _value(tree: ast.expr, values: Mapping[str, int]) -> int | None:
    if isinstance(tree, ast.Constant) and type(tree.value) is int:
        return tree.value
    if isinstance(tree, ast.Name):
        return values.get(tree.id)
    if isinstance(tree, ast.BinOp) and type(tree.op) in _OPERATIONS:
        left, right = _value(tree.left, values), _value(tree.right, values)
        by_nothing = right == 0 and isinstance(tree.op, ast.FloorDiv)
        if left is not None and right is not None and not by_nothing:
            return int(_OPERATIONS[type(tree.op)](left, right))
    return None
