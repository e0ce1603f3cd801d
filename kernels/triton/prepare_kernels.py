"""Kernels of what stands before a basis: coefficients of the low-rank branch, and tiles of tokens x channels."""

# A kernel is not the Python that a type checker takes it for: what exists depends on constants of the compilation.
# pyright: reportPossiblyUnboundVariable=false, reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

import triton
import triton.language as tl

from starquant_fx.kernels.triton.quantizer import state_of


@triton.jit
def coefficient_kernel(
    x: tl.tensor, reduce: tl.tensor, sums: tl.tensor, squares: tl.tensor, tokens: tl.tensor,
    d: tl.constexpr, rank: tl.constexpr, columns: tl.constexpr, width: tl.constexpr,
    rows: tl.constexpr, piece: tl.constexpr, share: tl.constexpr,
) -> None:  # fmt: skip
    """Products of a tile of tokens with the directions of all states, over ``share`` channels.

    Directions [S, d, rank] are read as [d, S * rank = columns]. The results of the second grid axis, sums
    [shares, T, columns] and squares [shares, T] in float32, are added up by who reads them.
    """
    dtype: tl.constexpr = x.dtype.element_ty
    token = tl.program_id(0) * rows + tl.arange(0, rows)
    part = tl.program_id(1)
    inside = (token < tokens)[:, None]
    column = tl.arange(0, width)
    channel = tl.arange(0, piece)
    at = token.to(tl.int64)[:, None] * d
    table = reduce + (column // rank * (d * rank) + column % rank)[None, :]
    total = tl.zeros([rows, width], tl.float32)
    square = tl.zeros([rows], tl.float32)
    for start in range(0, share, piece):
        here = part * share + start + channel
        mask = here < d
        value = tl.load(x + at + here[None, :], mask=inside & mask[None, :], other=0.0)
        known = mask[:, None] & (column < columns)[None, :]
        directions = tl.load(table + here[:, None] * rank, mask=known, other=0.0).to(dtype)
        total += tl.dot(value, directions, input_precision="ieee")
        if squares is not None:
            wide = value.to(tl.float32)
            square += tl.sum(wide * wide, 1)
    row = part.to(tl.int64) * tokens + token
    mask = inside & (column < columns)[None, :]
    tl.store(sums + row[:, None] * columns + column[None, :], total, mask=mask)
    if squares is not None:
        tl.store(squares + row, square, mask=token < tokens)


@triton.jit
def prepare_kernel(
    x: tl.tensor, matrix: tl.tensor, state: tl.tensor, shift: tl.tensor, directions: tl.tensor, start: tl.tensor,
    sums: tl.tensor, squares: tl.tensor, rest: tl.tensor, coefficients: tl.tensor, tokens: tl.tensor, eps: tl.tensor,
    states: tl.constexpr, d: tl.constexpr, g: tl.constexpr, rank: tl.constexpr, columns: tl.constexpr,
    width: tl.constexpr, shares: tl.constexpr, rows: tl.constexpr, tile: tl.constexpr, used: tl.constexpr,
) -> None:  # fmt: skip
    """A tile of tokens x channels: norm, TAC, shift of the state, less the branch's part.

    ``used`` channels, a multiple of the blocks' size g, of a tile of ``tile`` take part. The blocks become one
    block-diagonal square, because matrix units take no products as small as g.
    """
    dtype: tl.constexpr = x.dtype.element_ty
    token = tl.program_id(0) * rows + tl.arange(0, rows)
    part = tl.program_id(1)
    present = token < tokens
    inside = present[:, None]
    i = tl.arange(0, tile)
    channel = part * used + i
    real = (i < used) & (channel < d)
    mask = inside & real[None, :]
    at = token.to(tl.int64)[:, None] * d + channel[None, :]
    value = tl.load(x + at, mask=mask, other=0.0)
    label = state_of(state, token, present)
    if matrix is not None:
        out = channel[None, :]
        blocks = (i[:, None] // g == i[None, :] // g) & real[:, None] & real[None, :]
        square = tl.load(matrix + out * g + i[:, None] % g, mask=blocks, other=0.0).to(dtype)
        wide = tl.dot(value, square, input_precision="ieee")
    else:
        wide = value.to(tl.float32)
    inverse = tl.full([rows], 1.0, tl.float32)
    if squares is not None:
        total = tl.zeros([rows], tl.float32)
        for share in tl.static_range(shares):
            total += tl.load(squares + share * tokens + token, mask=present, other=0.0)
        inverse = tl.rsqrt(total / d + eps)
        wide = wide * inverse[:, None]
    if shift is not None:
        known = (label >= 0) & (label < states)
        place = shift + label[:, None] * d + channel[None, :]
        row = tl.load(place, mask=mask & known[:, None], other=0.0)
        wide += row.to(tl.float32) + tl.where(known, 0.0, float("nan"))[:, None]
    if directions is not None:
        column = tl.arange(0, width)
        own = (column // rank)[None, :] == label[:, None]
        inner = inside & (column < columns)[None, :]
        place = token.to(tl.int64)[:, None] * columns + column[None, :]
        spread = tl.zeros([rows, width], tl.float32)
        for share in tl.static_range(shares):
            spread += tl.load(sums + share * tokens * columns + place, mask=inner, other=0.0)
        spread = spread * inverse[:, None]
        if start is not None:
            spread += tl.load(start + column, mask=column < columns, other=0.0).to(tl.float32)[
                None, :
            ]
        bypassed = tl.where(own, spread, 0.0).to(dtype)
        if part == 0:
            tl.store(coefficients + place, bypassed, mask=inner)
        source = directions + (column // rank * (d * rank) + column % rank)[:, None]
        there = (column < columns)[:, None] & real[None, :]
        image = tl.load(source + channel[None, :] * rank, mask=there, other=0.0).to(dtype)
        wide -= tl.dot(bypassed, image, input_precision="ieee")
    tl.store(rest + at, wide.to(dtype), mask=mask)
