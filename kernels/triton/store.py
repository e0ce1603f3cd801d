"""The end of a linear's epilogue: SwiGLU, residual and the store of a tile, in parts."""

from __future__ import annotations

import triton
import triton.language as tl

from starquant_fx.kernels.triton.epilogue import (
    along_outputs,
    along_tokens,
    packed_rows,
    to_floats,
)

# Constants of kernels are upper case, and only they have a type.
# ruff: noqa: N803, N806
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false


@triton.jit
def halves(tile, SWAP: tl.constexpr):
    """Gate and up of a tile whose outputs are in the order of ``packed_rows``."""
    if SWAP:
        laid = tl.reshape(tile, (tile.shape[0] // 16, 2, 8, tile.shape[1]))
        gate, up = tl.split(tl.permute(laid, (0, 2, 3, 1)))
        gate = tl.reshape(gate, (tile.shape[0] // 2, tile.shape[1]))
        up = tl.reshape(up, (tile.shape[0] // 2, tile.shape[1]))
    else:
        laid = tl.reshape(tile, (tile.shape[0], tile.shape[1] // 16, 2, 8))
        gate, up = tl.split(tl.permute(laid, (0, 1, 3, 2)))
        gate = tl.reshape(gate, (tile.shape[0], tile.shape[1] // 2))
        up = tl.reshape(up, (tile.shape[0], tile.shape[1] // 2))
    return gate, up


@triton.jit
def _store_part(
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
    T: tl.constexpr,
    N: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    PAIR: tl.constexpr,
    STATES: tl.constexpr,
    RANK: tl.constexpr,
    SWAP: tl.constexpr,
):
    """The epilogue of a part of a tile."""
    token = token0 + tl.arange(0, T)
    there = token < tokens
    row, inside = packed_rows(output0, outputs, N, PAIR)
    y = to_floats(
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
        outputs * 2 if PAIR else outputs,
        token.to(tl.int64),
        there,
        row,
        inside,
        BITS,
        GROUP,
        STATES,
        RANK,
        SWAP,
    ).to(out.dtype.element_ty)
    WIDTH: tl.constexpr = N // 2 if PAIR else N
    if PAIR:
        # As PyTorch does it: every step is rounded.
        gate, up = halves(y, SWAP)
        wide = gate.to(tl.float32)
        y = (wide / (1.0 + tl.exp(-wide))).to(out.dtype.element_ty) * up
    column = output0 + tl.arange(0, WIDTH)
    keep = along_tokens(there, SWAP) & along_outputs(column < outputs, SWAP)
    at = along_tokens(token.to(tl.int64) * outputs, SWAP) + along_outputs(column, SWAP)
    if residual is not None:
        y += tl.load(residual + at, mask=keep, other=0.0)
    tl.store(out + at, y, mask=keep)


@triton.jit
def _token_halves(tile, SWAP: tl.constexpr):
    """The first and the second half of the tokens of a tile; with SWAP they are registers of the same threads."""
    if SWAP:
        laid = tl.reshape(tile, (tile.shape[0], 2, tile.shape[1] // 2))
        first, second = tl.split(tl.permute(laid, (0, 2, 1)))
    else:
        laid = tl.reshape(tile, (2, tile.shape[0] // 2, tile.shape[1]))
        first, second = tl.split(tl.permute(laid, (1, 2, 0)))
    return first, second


@triton.jit
def _token_part(tile, PART: tl.constexpr, PARTS: tl.constexpr, SWAP: tl.constexpr):
    """One of 1, 2 or 4 parts of the tokens of a tile."""
    if PARTS > 1:
        first, second = _token_halves(tile, SWAP)
        tile = first if PART < PARTS // 2 else second
    if PARTS > 2:
        first, second = _token_halves(tile, SWAP)
        tile = second if PART % 2 else first
    return tile


@triton.jit
def store_linear(
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
    T: tl.constexpr,
    N: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    PAIR: tl.constexpr,
    STATES: tl.constexpr,
    RANK: tl.constexpr,
    SWAP: tl.constexpr,
    PARTS: tl.constexpr,
):
    """The whole epilogue of a tile, up to the store; arguments as ``gemm.linear_kernel`` and ``to_floats``.

    PARTS (1, 2 or 4) parts of the tokens one after the other, which takes fewer registers.
    """
    for part in tl.static_range(PARTS):
        _store_part(
            _token_part(total, part, PARTS, SWAP),
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
            token0 + part * (T // PARTS),
            output0,
            T // PARTS,
            N,
            BITS,
            GROUP,
            PAIR,
            STATES,
            RANK,
            SWAP,
        )
