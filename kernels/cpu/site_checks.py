"""What ``site_codes`` refuses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from starquant_fx.kernels.cpu.checks import described, require, require_that, unfit, up_to
from starquant_fx.kernels.reference import PANEL

WHERE = "starquant::site_codes"
UNFIT = "a site has no kernel for these tensors"
TABLE_COUNT = 10
WIDEST_BLOCK, WIDEST_RIGHT, VECTOR = 16, 128, 16
"""Channels of a block of TAC and of a right factor; numbers of a vector."""


def check_site(
    x: Tensor,
    state: Tensor | None,
    tables: Sequence[Tensor | None],
    rank: int,
    shared: int,
    bits: int,
    other: Tensor | None,
    most: int,
) -> int:
    """Raises an InputError for what the kernel would read wrongly.

    Args:
        x: As of ``site_codes``, like all but the last.
        state: As there.
        tables: As there.
        rank: As there.
        shared: As there.
        bits: As there.
        other: As there.
        most: The largest rank.

    Returns:
        How many states the tables have; 0 = nothing depends on the state.
    """
    if len(tables) != TABLE_COUNT or not x.dim():
        got = f"{len(tables)} tables, x {described(x)}"
        raise unfit(UNFIT, WHERE, "the tables that site_tables returned, and x [..., d]", got)
    matrix, offset, means, directions, back, signs, left, right, bounds, clip = tables
    lead, d = x.shape[:-1], x.shape[-1]
    by_state = [t.shape[0] for t in (means, directions) if t is not None and t.dim()]
    if bounds is not None:
        by_state.append(bounds.numel() // 2)
    states = by_state[0] if by_state else 0
    block = matrix.shape[-1] if matrix is not None and matrix.dim() else 1
    a, b = (f.shape[0] if f is not None and f.dim() else 1 for f in (left, right))
    branch, basis = directions is not None, left is not None
    conditions = (
        (2 <= bits <= 8, "2 to 8 bits", bits),
        (0 <= shared <= d, "shared channels of those of x", shared),
        ((matrix is None) == (offset is None), "matrix and offset together", "one of them"),
        (branch == (back is not None), "both tables of the branch", "one of them"),
        (basis == (right is not None), "both factors of the basis", "one of them"),
        (basis or signs is None, "signs before factors", "signs alone"),
        (state is not None or not states, "the state of each token", "none"),
        (states > 0 or not by_state, "tables of one state or more", states),
        (1 <= block <= WIDEST_BLOCK and d % block == 0, "blocks of at most 16 channels", block),
        (b <= WIDEST_RIGHT, "a right factor of at most 128", b),
        (not basis or a * b == d, "factors whose sizes multiply to the channels of x", (a, b)),
        (1 <= rank <= most if branch else rank == 0, "a rank of 1 to 16, 0 without a branch", rank),
    )
    require_that(UNFIT, WHERE, conditions)
    require(
        UNFIT,
        WHERE,
        (
            ("x", x, None, x.shape),
            ("other", other, x.dtype, x.shape),
            ("state", state, torch.int64, lead),
        ),
    )
    require(
        UNFIT,
        WHERE,
        (
            ("matrix", matrix, None, (d // block, block, block)),
            ("offset", offset, None, (d,)),
            ("means", means, None, (states, d)),
            ("directions", directions, None, (states, up_to(d, 2) // 2, most, 2)),
            ("back", back, None, (states, most // 2, up_to(d, PANEL), 2)),
            ("signs", signs, None, (d,)),
            ("left", left, None, (a, up_to(a, 2))),
            ("right", right, None, (b, up_to(b, VECTOR))),
            ("bounds", bounds, torch.int64, (2 * states,)),
            ("clip", clip, None, (2,)),
        ),
        laid=True,
    )
    return states
