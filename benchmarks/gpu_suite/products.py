"""Random operands of integer products, and their answers by other means."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from gpu_suite import tile
from gpu_suite.random_programs import random_codes
from gpu_suite.specs import Form

STATES, RANK = 2, 16
"""As ``star-w4a4`` has them: token states, directions of a state's branch."""


def floats(device: torch.device) -> torch.dtype:
    """What kernels read and write beside integers: bf16, but float32 on a CPU, where Triton interprets bf16 wrongly."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


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
        coefficients: [T, S k], zero but in the columns of the token's state.
        image: [S k, n].
        bias: [n] or None.
        residual: [T, outputs] in the dtype of ``image``, or None.
        swiglu: Gate's outputs and, behind them, up's become one.
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
    bias: Tensor | None = None
    residual: Tensor | None = None
    swiglu: bool = False

    @property
    def column_sum(self) -> Tensor:
        """int32 [n], or of groups of channels [n, groups] where there are scales of groups."""
        if self.weight_scale.dim() == 1:
            return self.weight.sum(-1, dtype=torch.int32)
        return self.weight.unflatten(-1, (self.weight_scale.shape[1], -1)).sum(
            -1, dtype=torch.int32
        )

    def packed(self) -> Tensor:
        """The weight as the operators of the Triton target read it."""
        found: Tensor = tile.layout().tile_pack(self.weight, self.bits.weight)
        return found

    def plain(self, packed: Tensor, split: int = 0) -> Tensor:
        """The bare integers by our kernel, as float32 [T, n]: scales of one, no zero point; ``split`` as ``whole``."""
        one = torch.ones_like(self.scale), torch.zeros_like(self.scale)
        sides = (packed, torch.ones_like(self.weight_scale), self.column_sum, self.bits.weight)
        nothing = (None,) * 6
        call = tile.linear(self.codes.device, split)
        found: Tensor = call(self.codes, *one, *sides, *nothing, False, torch.float32)
        return found

    def whole(self, packed: Tensor, column_sum: Tensor, split: int = 0) -> Tensor:
        """The product with the epilogue that a model has, by our kernel: [T, outputs].

        Args:
            packed: See ``packed``.
            column_sum: See ``column_sum``.
            split: Parts that the channels are summed in; 0 = as the target chooses.
        """
        dtype = self.image.dtype
        call = tile.linear(self.codes.device, split)
        sides = (packed, self.weight_scale, column_sum, self.bits.weight)
        epilogue = (self.bias, self.state, self.state_bias, self.coefficients, self.image)
        ends = (self.residual, self.swiglu, dtype)
        found: Tensor = call(self.codes, self.scale, self.zero, *sides, *epilogue, *ends)
        return found

    def expected(self, integers: Tensor) -> Tensor:
        """The same in float64 from the exact integers [T, n], or of groups of channels [groups, T, n]."""
        if self.weight_scale.dim() == 1:
            integers = integers[None]
        y = torch.zeros(integers.shape[1:], dtype=torch.float64, device=integers.device)
        sums, scales = (t.view(len(t), -1).T for t in (self.column_sum, self.weight_scale))
        for total, column_sum, scale in zip(integers, sums, scales, strict=True):
            y += (total.double() - self.zero.double() * column_sum.double()) * scale.double()
        y *= self.scale.double()
        y += self.state_bias.double()[self.state]
        y += self.coefficients.double() @ self.image.double()
        if self.bias is not None:
            y += self.bias.double()
        if self.swiglu:
            gate, up = y.chunk(2, -1)
            y = torch.nn.functional.silu(gate) * up
        return y if self.residual is None else y + self.residual.double()

    def formed(self, form: Form, generator: torch.Generator) -> Product:
        """With what a form of a model has besides."""
        shape = (len(self.codes), len(self.weight))

        def drawn(*size: int) -> Tensor:
            values = torch.randn(size, generator=generator, device=self.codes.device)
            return values.to(self.image.dtype)

        return dataclasses.replace(
            self,
            bias=drawn(shape[1]) if form.bias else None,
            residual=drawn(*shape) if form.residual else None,
            swiglu=form.swiglu,
        )

    def grouped(self, group: int, generator: torch.Generator) -> Product:
        """With a weight scale for every ``group`` channels."""
        shape = (len(self.weight), self.codes.shape[1] // group)
        scale = torch.rand(shape, generator=generator, device=self.codes.device)
        return dataclasses.replace(self, weight_scale=scale)


def product(size: tuple[int, int], tokens: int, bits: Bits, generator: torch.Generator) -> Product:
    """Draws a product of (inputs, outputs), on the generator's device."""
    inputs, outputs = size
    device, dtype = generator.device, floats(generator.device)
    low, high = (0, 2**bits.activation) if bits.activation < 8 else (-128, 128)
    codes = torch.randint(low, high, (tokens, inputs), generator=generator, device=device)
    with torch.device(device):
        state = torch.arange(tokens) % STATES
        hot = torch.nn.functional.one_hot(state, STATES).to(dtype)
        own = torch.randn(tokens, RANK, generator=generator).to(dtype)
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
            torch.randn(STATES * RANK, outputs, generator=generator).to(dtype),
        )
