"""Random operands of single kernels, and their answers by other means."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from gpu_suite import tile
from gpu_suite.random_programs import random_codes
from starquant_fx.basis import BasisShape
from starquant_fx.kernels import reference

STATES, RANK, BLOCK, BASIS = 2, 16, 16, 128
"""As ``star-w4a4`` has them: token states, branch, TAC's block, wanted size of the basis."""
EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class Bits:
    """Bits of a product's two sides."""

    weight: int
    activation: int

    def __str__(self) -> str:
        """For example ``w4a8``."""
        return f"w{self.weight}a{self.activation}"


ALL_BITS = (Bits(4, 4), Bits(4, 8), Bits(8, 8))


@dataclasses.dataclass(frozen=True)
class Product:
    """Operands of an integer product, with everything that a site of ``star`` hands to its epilogue.

    Attributes:
        codes: int8 [T, d].
        weight: int8 [n, d].
        bits: Of both sides.
        scale: float32 [T, 1].
        zero: float32 [T, 1], integers.
        weight_scale: float32 [n].
        state: int64 [T].
        state_bias: float32 [S, n].
        coefficients: bf16 [T, S k], zero but in the columns of the token's state.
        image: bf16 [S k, n].
    """

    codes: Tensor
    weight: Tensor
    bits: Bits
    scale: Tensor
    zero: Tensor
    weight_scale: Tensor
    state: Tensor
    state_bias: Tensor
    coefficients: Tensor
    image: Tensor

    @property
    def column_sum(self) -> Tensor:
        """int32 [n]."""
        return self.weight.sum(-1, dtype=torch.int32)

    def packed(self) -> Tensor:
        """The weight as the operators of the Triton target read it."""
        found: Tensor = tile.layout().tile_pack(self.weight, self.bits.weight)
        return found

    def plain(self, packed: Tensor) -> Tensor:
        """The bare integers by our kernel, as float32 [T, n]: scales of one, no zero point."""
        one = torch.ones_like(self.scale), torch.zeros_like(self.scale)
        sides = (packed, torch.ones_like(self.weight_scale), self.column_sum, self.bits.weight)
        call = tile.operator("tile_linear", self.codes.device)
        nothing = (None,) * 6
        found: Tensor = call(self.codes, *one, *sides, *nothing, False, torch.float32)
        return found

    def whole(self, packed: Tensor, column_sum: Tensor, dtype: torch.dtype) -> Tensor:
        """The product with the epilogue that a model has, by our kernel: [T, n]."""
        call = tile.operator("tile_linear", self.codes.device)
        sides = (packed, self.weight_scale, column_sum, self.bits.weight)
        epilogue = (None, self.state, self.state_bias, self.coefficients, self.image, None)
        found: Tensor = call(self.codes, self.scale, self.zero, *sides, *epilogue, False, dtype)
        return found

    def expected(self, integers: Tensor) -> Tensor:
        """The same in float64 from the exact integers [T, n]."""
        total = integers.double() - self.zero.double() * self.column_sum.double()
        y = total * self.scale.double() * self.weight_scale.double()
        y = y + self.state_bias.double()[self.state]
        return y + self.coefficients.double() @ self.image.double()


def product(size: tuple[int, int], tokens: int, bits: Bits, generator: torch.Generator) -> Product:
    """Draws a product of (inputs, outputs), on the generator's device."""
    inputs, outputs = size
    device = generator.device
    low, high = (0, 2**bits.activation) if bits.activation < 8 else (-128, 128)
    codes = torch.randint(low, high, (tokens, inputs), generator=generator, device=device)
    with torch.device(device):
        state = torch.arange(tokens) % STATES
        hot = torch.nn.functional.one_hot(state, STATES).bfloat16()
        own = torch.randn(tokens, RANK, generator=generator).bfloat16()
        return Product(
            codes.to(torch.int8),
            random_codes(outputs, inputs, bits.weight, generator),
            bits,
            torch.rand(tokens, 1, generator=generator) / inputs,
            torch.randint(low, high, (tokens, 1), generator=generator).float(),
            torch.rand(outputs, generator=generator),
            state,
            torch.randn(STATES, outputs, generator=generator),
            (hot[:, :, None] * own[:, None]).flatten(1),
            torch.randn(STATES * RANK, outputs, generator=generator).bfloat16(),
        )


@dataclasses.dataclass(frozen=True)
class SiteProblem:
    """A site's input and tables, as ``star-w4a4`` has them before an attention output projection.

    Attributes:
        x: [T, d].
        state: int64 [T].
        matrix: TAC's maps [d / g, g, g].
        directions: U [S, d, k].
        reduce: M^T U_z [S, d, k].
        start: float32 [S, k].
        shift: float32 [S, d].
        factors: Of the basis.
        structure: Of the basis.
        shared: Channels of every state.
        bounds: Ranges of the states' own channels.
    """

    x: Tensor
    state: Tensor
    matrix: Tensor
    directions: Tensor
    reduce: Tensor
    start: Tensor
    shift: Tensor
    factors: list[Tensor]
    structure: str
    shared: int
    bounds: list[int]

    def prepare(self) -> tuple[Tensor, Tensor]:
        """``tile_prepare``: rest and coefficients."""
        call = tile.operator("tile_prepare", self.x.device)
        tables = (self.matrix, self.state, self.shift, self.directions, self.reduce, self.start)
        found: tuple[Tensor, Tensor] = call(self.x, EPS, *tables)
        return found

    def site(self, bits: int) -> tuple[Tensor, Tensor, Tensor]:
        """``tile_site``: codes, scale and zero point."""
        call = tile.operator("tile_site", self.x.device)
        basis = (self.factors, self.structure, self.shared, self.bounds)
        found: tuple[Tensor, Tensor, Tensor] = call(
            self.x, EPS, self.state, self.shift, *basis, bits, False, None
        )
        return found

    def normed(self) -> Tensor:
        """RMSNorm without a gain, float64."""
        wide = self.x.double()
        return wide * (wide.square().mean(-1, keepdim=True) + EPS).rsqrt()

    def expected_prepare(self) -> tuple[Tensor, Tensor]:
        """Rest [T, d] and coefficients [T, S k], float64."""
        n = self.normed()
        m = reference.compensate(n, self.matrix.double(), torch.zeros_like(n[0]))
        by_state = torch.einsum("td,sdk->tsk", n, self.reduce.double()) + self.start.double()
        hot = torch.nn.functional.one_hot(self.state, STATES).double()
        own = by_state * hot[:, :, None]
        low_rank = torch.einsum("tsk,sdk->td", own, self.directions.double())
        return m + self.shift.double()[self.state] - low_rank, own.flatten(1)

    def expected_site(self) -> Tensor:
        """What the quantizer reads, float64 [T, d]."""
        shifted = self.normed() + self.shift.double()[self.state]
        turned = reference.rotate(shifted, [f.double() for f in self.factors], self.structure)
        return reference.gate(turned, self.state, self.shared, self.bounds)


def site_problem(
    features: int, tokens: int, dtype: torch.dtype, generator: torch.Generator
) -> SiteProblem:
    """Draws a site of some channels, on the generator's device."""
    shape = BasisShape.choose("kronecker", features, BASIS, 1)
    with torch.device(generator.device):

        def normal(*size: int) -> Tensor:
            return torch.randn(size, generator=generator)

        matrix = torch.eye(BLOCK) + 0.05 * normal(features // BLOCK, BLOCK, BLOCK)
        directions = torch.linalg.qr(normal(STATES, features, RANK))[0]
        rows = torch.stack(
            [reference.rotate(u.mT, [matrix], "block").mT for u in directions]
        )  # M^T u, block by block
        return SiteProblem(
            normal(tokens, features).to(dtype),
            torch.arange(tokens) % STATES,
            matrix,
            directions.to(dtype),
            rows.to(dtype),
            0.1 * normal(STATES, RANK),
            0.1 * normal(STATES, features),
            [torch.linalg.qr(normal(*size))[0].to(dtype) for size in shape.factor_shapes()],
            shape.structure,
            shape.shared,
            shape.bounds(STATES),
        )
