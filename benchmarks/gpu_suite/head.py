"""The head on the masked rows: logits and the most probable token of each, in the forms that are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gpu_suite import tile
from gpu_suite.peers import bf16_linear
from gpu_suite.products import Bits, product
from gpu_suite.rows import KernelRow
from starquant_fx.operators import op

if TYPE_CHECKING:
    from gpu_suite.kernels import Kernels

BASE = "head bf16 + greedy"
OURS = "head w8a8 + greedy"


def heads(kernels: Kernels, size: tuple[int, int], rows: int) -> list[KernelRow]:
    """Logits and greedy choice of some masked rows: in bf16, and with our int8 product.

    Args:
        kernels: What measures.
        size: Inputs and outputs of the head.
        rows: Masked rows.
    """
    made = product(size, rows, Bits(8, 8), kernels.generator)
    device = kernels.clock.device
    x, weight = made.codes.bfloat16(), made.weight.bfloat16()
    calls: dict[str, list[Callable[[], Any]]] = {
        BASE: [lambda: _greedy(bf16_linear(x, weight))],
    }
    failed = {}
    if reason := tile.missing(device, "tile_linear"):
        failed[OURS] = reason
    else:
        packed, sums = made.packed(), made.column_sum
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        calls[OURS] = [lambda: _greedy(made.whole(packed, sums, dtype))]
    common = {"shape": f"{size[0]}x{size[1]}", "tokens": rows}
    found = kernels.timed(calls, common, BASE)
    for row in found:
        row.operations = 2 * rows * size[0] * size[1]
    return [*found, *(KernelRow(name, **common, reason=why) for name, why in failed.items())]


def _greedy(logits: Tensor) -> Sequence[Tensor]:
    found: Sequence[Tensor] = op("greedy")(logits, False)
    return found
