"""Random sites, and their answers by the formulas."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from gpu_suite import tile
from gpu_suite.products import RANK, STATES, floats
from starquant_fx.basis import BasisShape
from starquant_fx.kernels import reference

BLOCK, BASIS = 16, 128
"""As ``star-w4a4`` has them: TAC's block, wanted size of the basis."""
EPS = 1e-5


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


def site_problem(features: int, tokens: int, generator: torch.Generator) -> SiteProblem:
    """Draws a site of some channels, on the generator's device."""
    dtype = floats(generator.device)
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
