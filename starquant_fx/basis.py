"""Structures of an SGAT basis: sizes of the factors, where the gates lie, and how a basis starts.

Shapes of the factors are those of ``starquant_fx.kernels.reference.rotate``.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from starquant_fx.devices import Draws
from starquant_fx.errors import RecipeError, nearest
from starquant_fx.hadamard import hadamard

STRUCTURES = ("dense", "kronecker", "block", "hadamard")
STARTS = ("gaussian", "hadamard")


def balanced_split(features: int) -> tuple[int, int]:
    """Splits d into (a, b) with a * b = d, b <= a, as close to each other as d allows."""
    right = largest_divisor(features, math.isqrt(features))
    return features // right, right


def largest_divisor(features: int, limit: int) -> int:
    """The largest divisor of d that is not above ``limit``."""
    return max(k for k in range(1, min(limit, features) + 1) if features % k == 0)


@dataclasses.dataclass(frozen=True)
class BasisShape:
    """Shape of one site's basis and of its gates.

    Attributes:
        structure: One of ``STRUCTURES``.
        features: d.
        left: a of a Kronecker product (or number of blocks).
        right: b of a Kronecker product (or block size).
        rank: Coordinates r of each state's own subspace.
    """

    structure: str
    features: int
    left: int
    right: int
    rank: int

    @classmethod
    def choose(cls, structure: str, features: int, size: int, rank: int) -> BasisShape:
        """Fits the wanted sizes to d.

        Args:
            structure: One of ``STRUCTURES``.
            features: d.
            size: Wanted first Kronecker factor, or block size; the largest divisor of d that is not above it is
                taken. 0 = factors as equal as d allows, or blocks of 128. A dense basis has no size.
            rank: Wanted r; it is rounded up to a whole slice of the first factor. 0 = no gates.

        Returns:
            The shape.

        Raises:
            RecipeError: Unknown structure, negative sizes, or gates that would leave no shared coordinates.
        """
        if structure not in STRUCTURES:
            raise RecipeError(
                "unknown basis structure",
                expected=", ".join(STRUCTURES),
                got=structure,
                hint=nearest(structure, STRUCTURES),
            )
        if size < 0 or rank < 0:
            raise RecipeError(
                "sizes of a basis cannot be negative", got=f"size={size}, rank={rank}"
            )
        if structure == "dense":
            left, right = features, 1
        elif structure == "block":
            right = largest_divisor(features, size or 128)
            left = features // right
        elif size == 0:
            left, right = balanced_split(features)
        else:
            left = largest_divisor(features, size)
            right = features // left
        shape = cls(structure, features, left, right, 0)
        rank = math.ceil(rank / shape.slice_size) * shape.slice_size
        if 2 * rank >= features:
            raise RecipeError(
                "the gates leave no shared coordinates",
                expected=f"2 r < d = {features}",
                got=f"r = {rank}",
                hint="lower the rank",
            )
        return cls(structure, features, left, right, rank)

    @property
    def slice_size(self) -> int:
        """Coordinates that share one index of the first factor; r is a multiple of it."""
        return 1 if self.structure in ("dense", "block") else self.right

    def __str__(self) -> str:
        """For example ``kronecker 128x32``."""
        sizes = {"dense": f"{self.features}", "block": f"{self.right}"}
        return f"{self.structure} {sizes.get(self.structure, f'{self.left}x{self.right}')}"

    @property
    def shared(self) -> int:
        """Number of coordinates d_s that every state keeps; they come first."""
        return self.features - 2 * self.rank

    def bounds(self, states: int) -> list[int]:
        """Gates of all states (see ``reference.gate``); masked coordinates (odd labels) come first (paper, 3.2)."""
        masked = (self.shared, self.shared + self.rank)
        unmasked = (self.shared + self.rank, self.features)
        return [edge for label in range(states) for edge in (masked if label % 2 else unmasked)]

    def factor_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the factors."""
        if self.structure == "dense":
            return [(self.features, self.features)]
        if self.structure == "block":
            return [(self.left, self.right, self.right)]
        pair: list[tuple[int, ...]] = [(self.left, self.left), (self.right, self.right)]
        return [(self.features,), *pair] if self.structure == "hadamard" else pair

    def multiply_adds(self) -> int:
        """Multiply-adds a token."""
        cost = {"dense": self.features, "block": self.right}
        return self.features * cost.get(self.structure, self.left + self.right)


def random_orthogonal(shape: tuple[int, ...], draws: Draws) -> Tensor:
    """An orthogonalised Gaussian [..., k, k] (the paper's start), signs fixed so that it is uniform."""
    q, r = torch.linalg.qr(draws.normal(*shape))
    signs: Tensor = torch.diagonal(r, dim1=-2, dim2=-1).sign()
    return q * signs.unsqueeze(-2)


def start_factors(shape: BasisShape, draws: Draws, start: str) -> list[Tensor]:
    """Factors that a basis starts from.

    Args:
        shape: The basis.
        draws: Source of the signs or Gaussians.
        start: ``gaussian`` (orthogonalised Gaussian, the paper's) or ``hadamard`` (Hadamard with random signs).

    Returns:
        Tensors of ``shape.factor_shapes()``, float32.

    Raises:
        RecipeError: Unknown start.
    """
    if start not in STARTS:
        raise RecipeError("unknown start of a basis", expected=", ".join(STARTS), got=start)
    factors: list[Tensor] = []
    for size in shape.factor_shapes():
        if len(size) == 1:
            factors.append(draws.signs(*size))
        elif shape.structure == "hadamard":
            factors.append(hadamard(size[-1]))
        elif start == "gaussian":
            factors.append(random_orthogonal(size, draws))
        else:
            factors.append(draws.signs(*size[:-1], 1) * hadamard(size[-1]))
    return factors
