"""Token shapes, and expressions evaluated at them."""

from __future__ import annotations

import dataclasses
import functools
import re

import sympy

from starquant_fx.cost.units import BATCH, LENGTH, ROWS
from starquant_fx.errors import InputError


@dataclasses.dataclass(frozen=True)
class Shape:
    """Tokens of one forward.

    Attributes:
        batch: Sequences B.
        length: Tokens of each, L.
        rows: Positions whose logits are computed, R; None = all.
    """

    batch: int
    length: int
    rows: int | None = None

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return self.batch * self.length

    def with_share(self, share: float | None) -> Shape:
        """The shape with logits for a share of its positions, at least one; None = all."""
        rows = None if share is None else max(1, round(share * self.tokens))
        return dataclasses.replace(self, rows=rows)

    def __str__(self) -> str:
        """For example ``4x1024``."""
        return f"{self.batch}x{self.length}"


def parse_shape(text: str) -> Shape:
    """Reads a shape such as ``4x1024``.

    Raises:
        InputError: It is none.
    """
    match = re.fullmatch(r"([1-9]\d{0,8})x([1-9]\d{0,8})", text.strip())
    if match is None:
        raise InputError(
            "this is no shape of tokens",
            where="--tokens",
            expected="sequences x tokens of each, such as 4x1024",
            got=repr(text),
        )
    return Shape(int(match[1]), int(match[2]))


@functools.lru_cache(maxsize=100_000)
def at(expression: sympy.Expr, shape: Shape) -> float:
    """The value of an expression at a shape."""
    rows = shape.tokens if shape.rows is None else shape.rows
    return float(expression.subs({BATCH: shape.batch, LENGTH: shape.length, ROWS: rows}))
