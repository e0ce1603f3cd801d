"""Operands of the Triton kernels' linears, and what they should make of them."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from starquant_fx.kernels import reference
from starquant_fx.kernels.triton import linear  # noqa: F401  registers the operator
from starquant_fx.kernels.triton.layout import tile_pack


@dataclasses.dataclass
class Case:
    """Arguments of ``tile_linear``, in its order, behind the weight codes int8 [rows, d] that are packed in them."""

    weight: Tensor
    codes: Tensor
    scale: Tensor
    zero: Tensor
    weight_scale: Tensor
    column_sum: Tensor
    bits: int
    bias: Tensor | None = None
    state: Tensor | None = None
    state_bias: Tensor | None = None
    coefficients: Tensor | None = None
    image: Tensor | None = None
    residual: Tensor | None = None
    swiglu: bool = False
    dtype: torch.dtype = torch.float32

    def run(self) -> Tensor:
        """What the operator makes of it."""
        found = torch.ops.starquant.tile_linear(
            *self.shared(), self.residual, self.swiglu, self.dtype
        )
        assert isinstance(found, Tensor)
        return found

    def shared(self) -> tuple[object, ...]:
        """The arguments that linears and heads have in common."""
        return (
            *(self.codes, self.scale, self.zero, tile_pack(self.weight, self.bits)),
            *(self.weight_scale, self.column_sum, self.bits, self.bias, self.state),
            *(self.state_bias, self.coefficients, self.image),
        )

    def expected(self) -> Tensor:
        """The same by the reference, whose codes are unsigned: 128 is added to codes and zero points."""
        y = reference.quantized_linear(
            (self.codes.int() + 128).to(torch.uint8),
            self.scale,
            self.zero + 128,
            reference.pack(self.weight, self.bits),
            self.weight_scale,
            self.column_sum,
            self.bits,
            self.bias,
            self.state,
            self.state_bias,
            torch.float32,
        )
        if self.coefficients is not None and self.image is not None:
            y = y + self.coefficients.float() @ self.image.float()
        y = y.to(self.dtype)
        if self.swiglu:
            gate, up = y.chunk(2, -1)
            y = torch.nn.functional.silu(gate) * up
        return y if self.residual is None else y + self.residual


def make_case(
    lead: tuple[int, ...],
    features: int,
    rows: int,
    bits: int,
    groups: int = 0,
    unit: bool = False,
    seed: int = 0,
) -> Case:
    """A product of random codes; scales of one with ``unit``, so that its result is integers."""
    g = torch.Generator().manual_seed(seed)
    half = 2 ** (bits - 1)
    weight = torch.randint(-half, half, (rows, features), dtype=torch.int8, generator=g)
    codes = torch.randint(-128, 128, (*lead, features), dtype=torch.int8, generator=g)
    per_row = (rows, groups) if groups else (rows,)
    sums = weight.unflatten(-1, (groups, -1)) if groups else weight
    return Case(
        weight=weight,
        codes=codes,
        scale=torch.ones(*lead, 1) if unit else torch.rand(*lead, 1, generator=g) / 50,
        zero=torch.randint(-128, 128, (*lead, 1), generator=g).float(),
        weight_scale=torch.ones(per_row) if unit else torch.rand(per_row, generator=g) / 100,
        column_sum=sums.sum(-1, dtype=torch.int32),
        bits=bits,
    )


def dress(case: Case, rank: int = 32, states: int = 3, dtype: torch.dtype = torch.float16) -> Case:
    """The case with bias, bias of the state, branch and residual."""
    g = torch.Generator().manual_seed(1)
    lead, rows = case.codes.shape[:-1], case.weight.shape[0]
    outputs = rows // 2 if case.swiglu else rows
    return dataclasses.replace(
        case,
        bias=torch.randn(rows, generator=g),
        state=torch.randint(0, states, lead, generator=g),
        state_bias=torch.randn(states, rows, generator=g),
        coefficients=torch.randn(*lead, rank, generator=g).to(dtype),
        image=torch.randn(rank, rows, generator=g).to(dtype),
        residual=torch.randn(*lead, outputs, generator=g).to(dtype),
        dtype=dtype,
    )
