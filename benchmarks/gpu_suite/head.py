"""The head on the masked rows: the most probable token of each, with and without logits in memory."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gpu_suite import tile
from gpu_suite.peers import bf16_linear
from gpu_suite.products import Bits, Product, floats, product
from gpu_suite.rows import KernelRow
from starquant_fx.operators import op

if TYPE_CHECKING:
    from gpu_suite.kernels import Kernels

BASE = "head bf16, greedy"
FLOAT32_BASE = "head float32, greedy"
Greedy = Sequence[Tensor]


@dataclasses.dataclass(frozen=True)
class Head:
    """Hidden states and a head, in floats and as an integer product.

    Attributes:
        x: [R, d].
        weight: [vocab, d].
        quantized: Operands of another head of these sizes.
    """

    x: Tensor
    weight: Tensor
    quantized: Product

    def base(self) -> Greedy:
        """Logits, then the greedy choice."""
        found: Greedy = op("greedy")(bf16_linear(self.x, self.weight), False)
        return found

    def fused(self) -> Greedy:
        """The greedy choice without logits in memory."""
        found: Greedy = tile.operator("tile_greedy", self.x.device)(self.x, self.weight, None)
        return found

    def fused_int8(self, packed: Tensor, column_sum: Tensor) -> Greedy:
        """The same of the quantized head."""
        made = self.quantized
        call = tile.operator("tile_greedy_int8", self.x.device)
        sides = (packed, made.weight_scale, column_sum, made.bits.weight)
        nothing = (None,) * 5
        found: Greedy = call(made.codes, made.scale, made.zero, *sides, *nothing, self.x.dtype)
        return found


def head_problem(size: tuple[int, int], rows: int, generator: torch.Generator) -> Head:
    """Draws a head of (inputs, outputs), on the generator's device."""
    made, dtype = product(size, rows, Bits(8, 8), generator), floats(generator.device)
    inputs, outputs = size
    with torch.device(generator.device):
        x = torch.empty(rows, inputs, dtype=dtype).normal_(generator=generator)
        weight = torch.empty(outputs, inputs, dtype=dtype)
        weight.normal_(0, inputs**-0.5, generator=generator)
    return Head(x, weight, made)


def heads(kernels: Kernels, size: tuple[int, int], rows: int) -> list[KernelRow]:
    """The greedy choice of some masked rows: in bf16 as PyTorch computes it, and by our kernels.

    Args:
        kernels: What measures.
        size: Inputs and outputs of the head.
        rows: Masked rows.
    """
    device = kernels.clock.device
    made = head_problem(size, rows, kernels.generator)
    shape = f"{size[0]}x{size[1]}"
    base = BASE if made.x.dtype == torch.bfloat16 else FLOAT32_BASE
    calls: dict[str, list[Callable[[], Any]]] = {base: [made.base]}
    absent = []
    for name in ("tile_greedy", "tile_greedy_int8"):
        if reason := tile.missing(device):
            absent.append(KernelRow(name, shape, rows, reason=reason))
        elif name == "tile_greedy":
            calls[name] = [made.fused]
        else:
            sides = made.quantized.packed(), made.quantized.column_sum
            calls[name] = [functools.partial(made.fused_int8, *sides)]
    found = kernels.timed(calls, shape, rows, base)
    for row in found:
        row.operations = 2 * rows * size[0] * size[1]
    return [*found, *absent]
