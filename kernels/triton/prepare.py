"""``starquant::tile_prepare``: norm, TAC, shift of the state and low-rank branch of a site, before its basis."""

# A kernel is not the Python that a type checker takes it for: a launch takes options besides its arguments.
# pyright: reportCallIssue=false

from __future__ import annotations

import torch
from torch import Tensor

from starquant_fx.errors import LoweringError
from starquant_fx.kernels.triton.launch import on_its_device, require_device
from starquant_fx.kernels.triton.prepare_kernels import coefficient_kernel, prepare_kernel
from starquant_fx.kernels.triton.row_kernels import squares_kernel
from starquant_fx.kernels.triton.site_checks import check_prepare
from starquant_fx.kernels.triton.sizes import (
    PIECE,
    divided,
    multiprocessors,
    padded,
    power_of_two,
    warps,
)

WHERE = "starquant::tile_prepare"
ROWS = 64
"""Tokens of a tile."""
CHANNELS = 128
"""Channels of a tile without TAC."""
SPAN = 64
"""Channels of a step of the coefficients' sum, and of a tile with TAC unless its blocks are larger."""
WIDEST_BLOCK, WIDEST_BRANCH = 128, 128
"""Channels of a block of TAC, and columns of all states' directions."""
MOST_SHARES = 8
"""Parts that the channels are split in to fill the chip when there are few tokens."""


@on_its_device
def tile_prepare(
    x: Tensor,
    eps: float | None,
    matrix: Tensor | None,
    state: Tensor | None,
    shift: Tensor | None,
    directions: Tensor | None,
    reduce: Tensor | None,
    start: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """What a site does before its basis: ``M norm(x) + shift[z] - c U_z^T`` and ``c = norm(x) R_z + start_z``.

    Tiled over tokens x channels, because reading the [d, k] table of a branch for every token would cost more than the
    matrix product that follows. Products are summed in float32, their inputs are in the dtype of ``x``; the norm is
    applied after them.

    Args:
        x: [..., d] bfloat16, float16 or float32.
        eps: Norm ``x * rsqrt(mean(x^2) + eps)`` first. None: no norm.
        matrix: TAC's M [d / g, g, g] as ``reference.compensate`` takes it, g <= 128; or None.
        state: [...] int64; may be None where neither ``shift`` nor ``directions`` is given.
        shift: [S, d] float32, TAC's bias less the mean of the state; or None. A token of another state becomes NaN.
        directions: The branch's U [S, d, k], S * k <= 128; or None.
        reduce: Its R [S, d, k] with ``R_z = M^T U_z``; best in the dtype of ``x``.
        start: [S, k] with ``start_z = (bias - mean_z) U_z``; or None.

    Returns:
        The rest [..., d], and the coefficients [..., S * k] in the columns of each token's state, zero in the others
        ([..., 0] without a branch); both in the dtype of ``x``.

    Raises:
        InputError: Tensors do not fit each other.
        LoweringError: No kernel can run on this device, or takes these sizes.
    """
    require_device(x, WHERE)
    check_prepare(WHERE, x, matrix, state, shift, directions, reduce, start)
    columns = _require_sizes(matrix, state, shift, directions, reduce)
    x = x.contiguous()
    state, shift, matrix, directions, reduce, start = (
        None if t is None else t.contiguous()
        for t in (state, shift, matrix, directions, reduce, start)
    )
    d, tokens = x.shape[-1], x.shape[:-1].numel()
    rest = torch.empty_like(x)
    coefficients = x.new_empty(*x.shape[:-1], columns)
    if not tokens:
        return rest, coefficients
    rows = min(ROWS, padded(tokens))
    tiles = divided(tokens, rows)
    rank, width = (1, 16) if directions is None else (directions.shape[-1], padded(columns))
    sums, squares, shares, share = None, None, 1, d
    if reduce is not None and directions is not None:
        shares, share = split(d, tiles, multiprocessors(x.device))
        sums = torch.empty(shares, tokens, columns, dtype=torch.float32, device=x.device)
    if eps is not None:
        squares = torch.empty(shares, tokens, dtype=torch.float32, device=x.device)
    if sums is not None:
        coefficient_kernel[(tiles, shares)](
            *(x, reduce, sums, squares, tokens, d, rank, columns, width, rows, SPAN, share),
            num_warps=4,
        )
    elif squares is not None:
        piece = min(PIECE, power_of_two(d))
        squares_kernel[(tokens,)](x, squares, d, piece, num_warps=warps(piece))
    g = 1 if matrix is None else matrix.shape[-1]
    tile = CHANNELS if matrix is None else max(SPAN, padded(g))
    used = tile // g * g
    states = 0 if shift is None else shift.shape[0]
    prepare_kernel[(tiles, divided(d, used))](
        *(x, matrix, state, shift, directions, start, sums, squares, rest, coefficients),
        *(tokens, eps or 0.0, states, d, g, rank, columns, width, shares, rows, tile, used),
        num_warps=4 if tile <= SPAN else 8,
    )
    return rest, coefficients


def split(d: int, tiles: int, processors: int) -> tuple[int, int]:
    """In how many shares the channels are summed, and the channels of each: more of them where there are few tokens."""
    wanted = min(2 * processors // tiles, MOST_SHARES, d // (2 * SPAN))
    shares = 1 << max(wanted.bit_length() - 1, 0)  # powers of two, so that few kernels are compiled
    return shares, divided(divided(d, shares), SPAN) * SPAN


def _require_sizes(
    matrix: Tensor | None,
    state: Tensor | None,
    shift: Tensor | None,
    directions: Tensor | None,
    reduce: Tensor | None,
) -> int:
    """Refuses what the kernels do not have. Returns the columns of all states' directions."""
    columns = 0 if directions is None else directions.shape[0] * directions.shape[-1]
    block = 1 if matrix is None else matrix.shape[-1]
    for holds, expected, got in (
        ((directions is None) == (reduce is None), "directions and reduce together", "one of them"),
        (state is not None or (shift is None and not columns), "the state of each token", "none"),
        (block <= WIDEST_BLOCK, f"blocks of TAC up to {WIDEST_BLOCK}", f"{block}"),
        (columns <= WIDEST_BRANCH, f"up to {WIDEST_BRANCH} directions of all states", f"{columns}"),
    ):
        if not holds:
            raise LoweringError(
                "what stands before a site's basis has no kernel in the triton target",
                where=WHERE,
                expected=expected,
                got=got,
                hint="lower the rank of the branch, or merge states",
            )
    return columns


def _tile_prepare_fake(
    x: Tensor,
    eps: float | None,
    matrix: Tensor | None,
    state: Tensor | None,
    shift: Tensor | None,
    directions: Tensor | None,
    *rest: object,
) -> tuple[Tensor, Tensor]:
    columns = 0 if directions is None else directions.shape[0] * directions.shape[-1]
    return x.new_empty(x.shape), x.new_empty(*x.shape[:-1], columns)


torch.library.custom_op(
    "starquant::tile_prepare",
    tile_prepare,
    mutates_args=(),
    schema="(Tensor x, float? eps, Tensor? matrix, Tensor? state, Tensor? shift, Tensor? directions, "
    "Tensor? reduce, Tensor? start) -> (Tensor rest, Tensor coefficients)",
).register_fake(_tile_prepare_fake)
