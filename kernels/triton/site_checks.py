"""What ``tile_site`` refuses before a launch, without looking at values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from starquant_fx.kernels.triton.checks import FLOATS, INTEGERS, require, require_that

WIDEST_LEFT, WIDEST_RIGHT, WIDEST_BLOCK = 128, 160, 128
"""Channels of factors, and of a block, that are compiled without spills for 16 bits on every chip."""
WIDEST_FLOAT32, WIDEST_BLOCK_FLOAT32 = 32, 64
"""The same for float32, whose products take more registers: of either factor, and of a block."""


def covers(structure: str, factors: Sequence[Tensor], dtype: torch.dtype) -> bool:
    """Whether ``tile_site`` has a basis of these factors on every chip, for inputs of a type."""
    if structure == "dense" or not factors:
        return True
    wide = dtype == torch.float32
    if structure == "block":
        return factors[0].shape[-1] <= (WIDEST_BLOCK_FLOAT32 if wide else WIDEST_BLOCK)
    if structure not in ("kronecker", "hadamard"):
        return False
    left, right = (WIDEST_FLOAT32,) * 2 if wide else (WIDEST_LEFT, WIDEST_RIGHT)
    a, b = (f.shape[0] for f in factors[-2:])
    return a <= left and b <= right


def check_site(
    where: str,
    x: Tensor,
    state: Tensor | None,
    shift: Tensor | None,
    factors: Sequence[Tensor],
    structure: str,
    shared: int,
    bounds: Sequence[int],
    bits: int,
    clip: Tensor | None,
) -> None:
    """Raises an InputError for what the kernels would read wrongly; arguments as of ``tile_site``."""
    check_x(where, x)
    d = x.shape[-1]
    sizes = [tuple(f.shape) for f in factors]
    states = states_of(shift)
    inside = 0 <= shared <= d and all(0 <= edge <= d for edge in bounds)
    stated = state is not None or (shift is None and not bounds)
    paired = shift is None or len(bounds) in (0, 2 * states)
    require_that(
        where,
        (
            (2 <= bits <= 8, "2 to 8 bits", bits),
            (len(bounds) % 2 == 0 and inside, f"gates within {d} channels", list(bounds)),
            (stated, "the state of each token, which shift and gates depend on", "none"),
            (paired, f"two bounds of gates for each of {states} states", list(bounds)),
            (_makes(structure, sizes, d), f"a basis of {d} channels", f"{structure} {sizes}"),
        ),
    )
    require(
        where,
        x.device,
        (
            ("state", state, INTEGERS, tuple(x.shape[:-1])),
            ("shift", shift, FLOATS, (states, d)),
            *(("factor", f, FLOATS, tuple(f.shape)) for f in factors),
            ("clip", clip, FLOATS, (2,)),
        ),
    )


def check_x(where: str, x: Tensor) -> None:
    """Raises an InputError if a kernel cannot read the input [..., d] of a site."""
    fits = x.dim() > 0 and x.dtype in FLOATS and x.shape[-1] > 0
    require_that(where, ((fits, "x [..., d] of floats", f"{x.dtype} {list(x.shape)}"),))


def states_of(table: Tensor | None) -> int:
    """Token states that a table [S, ...] is for."""
    return table.shape[0] if table is not None and table.dim() else 0


def _makes(structure: str, sizes: Sequence[tuple[int, ...]], d: int) -> bool:
    """Whether factors of these sizes are a basis of d channels."""
    if not sizes:
        return True
    if structure == "dense":
        return list(sizes) == [(d, d)]
    if structure == "block":
        size = sizes[0][-1] if sizes[0] else 0
        return list(sizes) == [(d // max(size, 1), size, size)] and d % max(size, 1) == 0
    if structure == "hadamard" and len(sizes) == 3:
        return sizes[0] == (d,) and _makes("kronecker", sizes[1:], d)
    squares = all(len(size) == 2 and size[0] == size[1] for size in sizes)
    return (
        structure == "kronecker" and len(sizes) == 2 and squares and sizes[0][0] * sizes[1][0] == d
    )
