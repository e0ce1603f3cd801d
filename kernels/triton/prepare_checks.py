"""What ``tile_prepare`` refuses before a launch, without looking at values, and which sizes it has."""

from __future__ import annotations

import torch
from torch import Tensor

from starquant_fx.errors import LoweringError
from starquant_fx.kernels.triton.checks import FLOATS, INTEGERS, Wanted, require, require_that
from starquant_fx.kernels.triton.site_checks import check_x, states_of

WIDEST_BLOCK, WIDEST_BRANCH = 128, 128
"""Channels of a block of TAC, and columns of all states' directions, that are compiled without spills on every chip."""
WIDEST_BRANCH_FLOAT32, WITH_WIDE_BLOCKS = 64, 32
"""Columns for inputs in float32, and where TAC's blocks are larger than ``NARROW_BLOCK`` besides."""
NARROW_BLOCK = 64


def prepares(block: int, columns: int, dtype: torch.dtype) -> bool:
    """Whether ``tile_prepare`` has these sizes on every chip.

    Args:
        block: Channels of a block of TAC; 1 = no TAC.
        columns: Of all states' directions; 0 = no branch.
        dtype: Of the input.
    """
    most = WIDEST_BRANCH
    if dtype == torch.float32:
        most = WIDEST_BRANCH_FLOAT32 if block <= NARROW_BLOCK else WITH_WIDE_BLOCKS
    return block <= WIDEST_BLOCK and columns <= most


def check_prepare(
    where: str,
    x: Tensor,
    matrix: Tensor | None,
    state: Tensor | None,
    shift: Tensor | None,
    directions: Tensor | None,
    reduce: Tensor | None,
    start: Tensor | None,
) -> None:
    """Raises for what the kernels would read wrongly or do not have; arguments as of ``tile_prepare``.

    Raises:
        InputError: Tensors do not fit each other.
        LoweringError: No kernel has these sizes.
    """
    check_x(where, x)
    d = x.shape[-1]
    states = states_of(shift if directions is None else directions)
    rank = 0 if directions is None else directions.shape[-1]
    g = 1 if matrix is None or not matrix.dim() else max(matrix.shape[-1], 1)
    stated = state is not None or (shift is None and directions is None)
    paired = (directions is None) == (reduce is None)
    wanted: list[Wanted] = [
        ("matrix", matrix, FLOATS, (d // g, g, g)),
        ("state", state, INTEGERS, tuple(x.shape[:-1])),
        ("shift", shift, FLOATS, (states, d)),
        ("directions", directions, FLOATS, (states, d, rank)),
        ("reduce", reduce, FLOATS, (states, d, rank)),
        ("start", start, FLOATS, (states, rank)),
    ]
    require_that(
        where,
        (
            (d % g == 0, f"blocks of TAC that divide {d} channels", g),
            (paired, "directions and reduce together", "one of them"),
            (stated, "the state of each token", "none"),
        ),
    )
    require(where, x.device, wanted)
    if not prepares(g, states * rank, x.dtype):
        raise LoweringError(
            "what stands before a site's basis has no kernel in the triton target",
            where=where,
            expected=f"blocks of TAC up to {WIDEST_BLOCK}, and up to {WIDEST_BRANCH} directions of all states "
            f"({WITH_WIDE_BLOCKS} to {WIDEST_BRANCH_FLOAT32} in float32)",
            got=f"blocks of {g} and {states * rank} directions in {str(x.dtype).removeprefix('torch.')}",
            hint="lower the rank of the branch, or merge states",
        )
