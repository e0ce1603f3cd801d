"""``starquant::tile_prepare``: norm, TAC, shift of the state and low-rank branch of a site, before its basis."""

# A kernel is not the Python that a type checker takes it for: a launch takes options besides its arguments.
# pyright: reportCallIssue=false

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from starquant_fx.kernels.triton.launch import on_its_device, require_device
from starquant_fx.kernels.triton.prepare_checks import check_prepare
from starquant_fx.kernels.triton.prepare_kernels import coefficient_kernel, prepare_kernel
from starquant_fx.kernels.triton.row_kernels import squares_kernel
from starquant_fx.kernels.triton.sizes import (
    PIECE,
    divided,
    multiprocessors,
    padded,
    power_of_two,
    warps,
)

WHERE = "starquant::tile_prepare"
SPAN = 64
"""Channels of a step of the coefficients' sum, and the fewest of a tile."""
MOST_SHARES = 8
"""Parts that the channels are split in to fill the chip when there are few tokens."""


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Tiles of tokens x channels of the two kernels.

    Attributes:
        rows: Tokens of a tile, also where there are fewer: a smaller tile in as many warps may spill.
        channels: Of a tile, padded.
        warps: Of a program.
        summed: Tokens of a tile of the coefficients' sum.
    """

    rows: int
    channels: int
    warps: int
    summed: int


def tiles(block: int, columns: int, dtype: torch.dtype) -> Tiles:
    """Chooses tiles without spills on any chip; found by compiling (``test_triton_site_sass.py``).

    Args:
        block: Channels of a block of TAC; 1 = no TAC.
        columns: Of all states' directions.
        dtype: Of the input. Products in float32 are no matrix units' and take more registers.
    """
    wide, broad = dtype == torch.float32, columns > 32
    channels = 128 if block == 1 and not wide else max(SPAN, padded(block))
    return Tiles(
        rows=16 if wide else 32 if broad else 64,
        channels=channels,
        warps=8 if wide or broad or channels > SPAN else 4,
        summed=32 if wide else 64,
    )


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
        matrix: TAC's M [d / g, g, g] as ``reference.compensate`` takes it; or None. See ``prepares`` for limits.
        state: [...] int64; may be None where neither ``shift`` nor ``directions`` is given.
        shift: [S, d] float32, TAC's bias less the mean of the state; or None. A token of another state becomes NaN.
        directions: The branch's U [S, d, k]; or None.
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
    x = x.contiguous()
    state, shift, matrix, directions, reduce, start = (
        None if t is None else t.contiguous()
        for t in (state, shift, matrix, directions, reduce, start)
    )
    d, tokens = x.shape[-1], x.shape[:-1].numel()
    rank, columns = (1, 0) if directions is None else (directions.shape[-1], _columns(directions))
    rest = torch.empty_like(x)
    coefficients = x.new_empty(*x.shape[:-1], columns)
    if not tokens:
        return rest, coefficients
    g, width = 1 if matrix is None else matrix.shape[-1], padded(max(columns, 1))
    form = tiles(g, columns, x.dtype)
    sums, squares, shares, share = None, None, 1, d
    summed = min(form.summed, padded(tokens))
    programs = divided(tokens, summed)
    if reduce is not None:
        shares, share = split(d, programs, multiprocessors(x.device))
        sums = torch.empty(shares, tokens, columns, dtype=torch.float32, device=x.device)
    if eps is not None:
        squares = torch.empty(shares, tokens, dtype=torch.float32, device=x.device)
    if sums is not None:
        coefficient_kernel[(programs, shares)](
            *(x, reduce, sums, squares, tokens, d, rank, columns, width, summed, SPAN, share),
            num_warps=4,
        )
    elif squares is not None:
        piece = min(PIECE, power_of_two(d))
        squares_kernel[(tokens,)](x, squares, d, piece, num_warps=warps(piece))
    used = form.channels // g * g
    states = 0 if shift is None else shift.shape[0]
    prepare_kernel[(divided(tokens, form.rows), divided(d, used))](
        *(x, matrix, state, shift, directions, start, sums, squares, rest, coefficients),
        *(tokens, eps or 0.0, states, d, g, rank, columns, width, shares),
        *(form.rows, form.channels, used),
        num_warps=form.warps,
    )
    return rest, coefficients


def split(d: int, programs: int, processors: int) -> tuple[int, int]:
    """In how many shares the channels are summed, and the channels of each: more of them where there are few tokens."""
    wanted = min(2 * processors // programs, MOST_SHARES, d // (2 * SPAN))
    shares = 1 << max(wanted.bit_length() - 1, 0)  # powers of two, so that few kernels are compiled
    return shares, divided(divided(d, shares), SPAN) * SPAN


def _columns(directions: Tensor | None) -> int:
    """Those of all states' directions."""
    return 0 if directions is None else directions.shape[0] * directions.shape[-1]


def _tile_prepare_fake(
    x: Tensor,
    eps: float | None,
    matrix: Tensor | None,
    state: Tensor | None,
    shift: Tensor | None,
    directions: Tensor | None,
    *rest: object,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(*x.shape[:-1], _columns(directions))


torch.library.custom_op(
    "starquant::tile_prepare",
    tile_prepare,
    mutates_args=(),
    schema="(Tensor x, float? eps, Tensor? matrix, Tensor? state, Tensor? shift, Tensor? directions, "
    "Tensor? reduce, Tensor? start) -> (Tensor rest, Tensor coefficients)",
).register_fake(_tile_prepare_fake)
