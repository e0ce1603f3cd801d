"""What variants need of a device's memory, by the sizes of models and shapes, and which of them have no room."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cpu_suite.specs import Shape
from gpu_suite.specs import GpuModel
from gpu_suite.variants import ANCHORS, Variant
from starquant_fx.errors import InputError

RESERVED = 2_000_000_000
"""Bytes of the device's context, libraries, compiled kernels and what an allocator leaves unused."""
TABLES = 1.05
"""Scales and tables of states beside the codes; what ``starquant-fx cost`` counts is 0.04 of them at most."""
FLOAT = 2
"""Bytes of a bf16 value."""


def capacity(device: torch.device) -> int | None:
    """Bytes that are free on a device; None on a CPU, where nothing is said of them."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def base_bytes(spec: GpuModel) -> int:
    """The bf16 model, and what making a variant of its largest linear takes for a while."""
    ends, inside = spec.width * spec.vocab, sum(a * b for a, b in spec.linears)
    return FLOAT * (2 * ends + inside) + 2 * FLOAT * ends + RESERVED


def weight_bytes(spec: GpuModel, variant: Variant) -> int:
    """What a variant holds beside the bf16 model, whose embedding and head it shares unless it has its own."""
    if variant.bits is None:
        return 0
    inside = sum(a * b for a, b in spec.linears)
    ends = spec.width * spec.vocab * sum(bits for bits in variant.bits[1:] if bits < 16)
    return int(TABLES * (inside * variant.bits[0] + ends) / 8)


def activation_bytes(spec: GpuModel, shape: Shape) -> int:
    """What a captured forward or step keeps: logits of all tokens and of half of them again, and a block's values."""
    values = spec.vocab * 3 // 2 + 8 * spec.width + 3 * spec.ffn
    return FLOAT * shape.tokens * values


def without_room(
    spec: GpuModel,
    built: Sequence[Variant],
    measured: Sequence[Variant],
    shape: Shape,
    free: int | None,
) -> dict[str, str]:
    """Reasons of the variants that do not fit on the device beside those before them.

    Args:
        spec: The model.
        built: Variants whose weights are held whether they are measured or not.
        measured: Variants that are to be measured together, in their order.
        shape: The tokens.
        free: Bytes of the device; None: all fit.
    """
    used = base_bytes(spec) + sum(weight_bytes(spec, one) for one in built)
    held = {one.name for one in built}
    reasons: dict[str, str] = {}
    for one in measured if free is not None else ():
        needed = activation_bytes(spec, shape)
        needed += 0 if one.name in held else weight_bytes(spec, one)
        if free is not None and used + needed > free:
            reasons[one.name] = (
                f"no room: at {shape} it needs {gigabytes(needed)} beside {gigabytes(used)}, "
                f"and {gigabytes(free)} were free"
            )
        else:
            used += needed
    return reasons


def require_memory(specs: Sequence[GpuModel], shapes: Sequence[Shape], free: int | None) -> None:
    """Refuses a device that holds none of the models in bf16, which everything is compared with.

    Raises:
        InputError: Its free memory is too small for all of them at every shape.
    """
    if free is None:
        return
    least = {
        spec.name: base_bytes(spec)
        + len(ANCHORS) * min(activation_bytes(spec, shape) for shape in shapes)
        for spec in specs
    }
    if min(least.values()) > free:
        raise InputError(
            "the device's memory holds none of the models in bf16",
            where="--device",
            expected=", ".join(f"{gigabytes(size)} for {name}" for name, size in least.items()),
            got=f"{gigabytes(free)} free",
            hint="end what else runs on it, take a larger one, or --parts checks,kernels",
        )


def gigabytes(size: float) -> str:
    """For example ``16.3 GB``."""
    return f"{size / 1e9:.3g} GB"
