"""The kernels of ``linear.tile_linear``: a product with its epilogue, and the two steps of a split one."""

from __future__ import annotations

import triton
import triton.language as tl

from starquant_fx.kernels.triton.epilogue import packed_rows
from starquant_fx.kernels.triton.product import accumulate
from starquant_fx.kernels.triton.store import store_linear

# Constants of kernels are upper case, and only they have a type.
# ruff: noqa: N803, N806
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false


@triton.jit
def tile_place(tokens, outputs, T: tl.constexpr, WIDTH: tl.constexpr, BAND: tl.constexpr):
    """First token and first output of a program's tile; BAND tiles of tokens go through the weights together."""
    program = tl.program_id(0)
    tiles_t = tl.cdiv(tokens, T)
    tiles_n = tl.cdiv(outputs, WIDTH)
    band = program // (BAND * tiles_n)
    height = tl.minimum(tiles_t - band * BAND, BAND)
    within = program % (BAND * tiles_n)
    return (band * BAND + within % height) * T, (within // height) * WIDTH


@triton.jit
def linear_kernel(
    codes,
    scale,
    zero,
    packed,
    weight_scale,
    column_sum,
    bias,
    state,
    state_bias,
    coefficients,
    image,
    residual,
    out,
    partial,
    tokens,
    outputs,
    features,
    row_bytes,
    blocks,
    groups,
    per_split,
    T: tl.constexpr,
    N: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    FLUSH: tl.constexpr,
    PAIR: tl.constexpr,
    STATES: tl.constexpr,
    RANK: tl.constexpr,
    SWAP: tl.constexpr,
    EVEN: tl.constexpr,
    ASM: tl.constexpr,
    BAND: tl.constexpr,
    PARTS: tl.constexpr,
):
    """A tile of ``tile_linear``; with ``partial``, only its sums over a part of the channels (program axis 1).

    Args:
        codes: int8 [tokens, features].
        scale: float32 [tokens].
        zero: float32 [tokens].
        packed: int8 [outputs, or twice as many with PAIR, row_bytes].
        weight_scale: float32 [rows, groups].
        column_sum: int32 [rows, groups].
        bias: [rows] or None.
        state: Integer [tokens] or None.
        state_bias: [STATES, rows] or None.
        coefficients: [tokens, RANK] or None.
        image: [RANK, rows], of the type of ``coefficients``, or None.
        residual: [tokens, outputs] of the type of ``out``, or None.
        out: [tokens, outputs].
        partial: int32, or float32 with GROUP, [parts, tokens, rows], or None.
        tokens: Their number.
        outputs: Their number.
        features: Channels.
        row_bytes: Bytes of a packed row.
        blocks: Blocks of 128 channels.
        groups: Groups of channels.
        per_split: Blocks of a part.
        T: As ``accumulate``, like the others that are not described.
        N: As there.
        BITS: As there.
        GROUP: As there.
        FLUSH: As there.
        PAIR: SwiGLU of the first and the second half of the packed rows.
        STATES: Token states of ``state_bias``.
        RANK: Columns of ``coefficients``, a multiple of 16.
        SWAP: As there.
        EVEN: As there.
        ASM: As there.
        BAND: See ``tile_place``.
        PARTS: See ``store.store_linear``.
    """
    WIDTH: tl.constexpr = N // 2 if PAIR else N
    token0, output0 = tile_place(tokens, outputs, T, WIDTH, BAND)
    token = token0 + tl.arange(0, T)
    row, inside = packed_rows(output0, outputs, N, PAIR)
    # Tokens and rows that are not there repeat the first ones: no masks in the loop.
    safe = tl.where(token < tokens, token, 0).to(tl.int64)
    first = tl.program_id(1) * per_split
    total = accumulate(
        codes,
        packed,
        weight_scale,
        column_sum,
        zero,
        features,
        row_bytes,
        groups,
        safe,
        tl.where(inside, row, 0),
        first,
        tl.minimum(first + per_split, blocks),
        T,
        N,
        BITS,
        GROUP,
        FLUSH,
        SWAP,
        EVEN,
        ASM,
    )
    if partial is not None:
        rows = outputs * 2 if PAIR else outputs
        at = partial + tl.program_id(1).to(tl.int64) * tokens * rows
        if SWAP:
            keep = inside[:, None] & (token < tokens)[None, :]
            tl.store(at + safe[None, :] * rows + row[:, None], total, mask=keep)
        else:
            keep = (token < tokens)[:, None] & inside[None, :]
            tl.store(at + safe[:, None] * rows + row[None, :], total, mask=keep)
    else:
        store_linear(
            total,
            scale,
            zero,
            weight_scale,
            column_sum,
            bias,
            state,
            state_bias,
            coefficients,
            image,
            residual,
            out,
            tokens,
            outputs,
            token0,
            output0,
            T,
            N,
            BITS,
            GROUP,
            PAIR,
            STATES,
            RANK,
            SWAP,
            PARTS,
        )


@triton.jit
def finish_kernel(
    partial,
    scale,
    zero,
    weight_scale,
    column_sum,
    bias,
    state,
    state_bias,
    coefficients,
    image,
    residual,
    out,
    tokens,
    outputs,
    parts,
    T: tl.constexpr,
    N: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    PAIR: tl.constexpr,
    STATES: tl.constexpr,
    RANK: tl.constexpr,
):
    """Adds the parts of a split product and does the epilogue; arguments as ``linear_kernel``."""
    WIDTH: tl.constexpr = N // 2 if PAIR else N
    token0, output0 = tile_place(tokens, outputs, T, WIDTH, 1)
    token = token0 + tl.arange(0, T)
    row, inside = packed_rows(output0, outputs, N, PAIR)
    rows = outputs * 2 if PAIR else outputs
    at = partial + token.to(tl.int64)[:, None] * rows + row[None, :]
    keep = (token < tokens)[:, None] & inside[None, :]
    total = tl.zeros((T, N), dtype=partial.dtype.element_ty)
    stride = rows.to(tl.int64) * tokens
    for part in range(parts):
        total += tl.load(at + part * stride, mask=keep, other=0)
    store_linear(
        total,
        scale,
        zero,
        weight_scale,
        column_sum,
        bias,
        state,
        state_bias,
        coefficients,
        image,
        residual,
        out,
        tokens,
        outputs,
        token0,
        output0,
        T,
        N,
        BITS,
        GROUP,
        PAIR,
        STATES,
        RANK,
        False,
        1,
    )
