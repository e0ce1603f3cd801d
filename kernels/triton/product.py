"""Integer matrix products of packed weights and int8 codes, with the whole epilogue of a linear.

A program computes a tile of BLOCK_T tokens and BLOCK_N outputs. The 4-bit codes of a byte (see ``layout``) unpack to 16
times their value by two masks, so sums are 16 times too large and the epilogue multiplies by 1/16, exactly. Two forms
read the one layout:

- SWAP (sm_90): the unpacked weights, in registers, are the left operand of the matrix instruction and the tokens its
  right one, in shared memory; the accumulator is [outputs, tokens].
- otherwise (sm_8x): tokens are the left operand, and a product of the channels of the low nibbles and one of those of
  the high nibbles go into one accumulator [tokens, outputs].

Loads are pointer loads (cp.async). Triton 3.6 puts no ``fence.proxy.async`` between them and the sm_90 matrix
instruction: there, check integers on the device before trusting a speed.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Constants of kernels are upper case, and only they have a type.
# ruff: noqa: N803, N806
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false


@triton.jit
def unpack_nibbles(packed, ASM: tl.constexpr):
    """16 times the low and the high nibbles of int8 bytes, as int8; ASM = three instructions for four bytes."""
    if ASM:
        low, high = tl.inline_asm_elementwise(
            "{ .reg .b32 t; shl.b32 t, $2, 4; and.b32 $0, t, 0xf0f0f0f0; and.b32 $1, $2, 0xf0f0f0f0; }",
            "=r,=r,r",
            [packed],
            dtype=(tl.int8, tl.int8),
            is_pure=True,
            pack=4,
        )
    else:
        low = packed << 4
        high = packed & -16
    return low, high


@triton.jit
def add_block(
    total,
    rows,
    weights,
    block,
    features,
    BITS: tl.constexpr,
    SWAP: tl.constexpr,
    EVEN: tl.constexpr,
    ASM: tl.constexpr,
):
    """Adds the product of one block of 128 channels to int32 ``total``; the pointers are those of block 0."""
    NIBBLES: tl.constexpr = BITS == 4
    BYTES: tl.constexpr = 64 if NIBBLES else 128
    WIDTH: tl.constexpr = 64 if NIBBLES and not SWAP else 128
    weight = tl.load(weights + block * BYTES)
    tokens = tl.load(rows + block * 128) if EVEN else _ragged(rows, block * 128, features, WIDTH)
    if not NIBBLES:
        if SWAP:
            total = tl.dot(weight, tl.trans(tokens), acc=total, out_dtype=tl.int32)
        else:
            total = tl.dot(tokens, tl.trans(weight), acc=total, out_dtype=tl.int32)
    else:
        low, high = unpack_nibbles(weight, ASM)
        if SWAP:
            both = tl.permute(tl.join(low, high), (0, 2, 1))
            wide = tl.reshape(both, (weight.shape[0], 128))
            total = tl.dot(wide, tl.trans(tokens), acc=total, out_dtype=tl.int32)
        else:
            others = (
                tl.load(rows + block * 128 + 64)
                if EVEN
                else _ragged(rows, block * 128 + 64, features, WIDTH)
            )
            total = tl.dot(tokens, tl.trans(low), acc=total, out_dtype=tl.int32)
            total = tl.dot(others, tl.trans(high), acc=total, out_dtype=tl.int32)
    return total


@triton.jit
def _ragged(rows, channel, features, WIDTH: tl.constexpr):
    """Codes of WIDTH channels from ``channel`` on, zero behind the last one."""
    inside = channel + tl.arange(0, WIDTH) < features
    return tl.load(rows + channel, mask=inside[None, :], other=0)


@triton.jit
def accumulate(
    codes,
    packed,
    weight_scale,
    column_sum,
    zero,
    features,
    row_bytes,
    groups,
    token,
    output,
    first,
    last,
    T: tl.constexpr,
    N: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    FLUSH: tl.constexpr,
    SWAP: tl.constexpr,
    EVEN: tl.constexpr,
    ASM: tl.constexpr,
):
    """Products of a tile over the blocks of channels [first, last).

    Args:
        codes: int8 [tokens, features].
        packed: int8 [rows, row_bytes].
        weight_scale: float32 [rows, groups]; only read with GROUP, as are ``column_sum`` and ``zero``.
        column_sum: int32 [rows, groups].
        zero: float32 [tokens].
        features: Channels.
        row_bytes: Bytes of a packed row.
        groups: Groups of channels.
        token: int64 [T], the tile's rows of ``codes``.
        output: int64 [N], its rows of ``packed``.
        first: First block.
        last: Behind the last block; with GROUP a multiple of FLUSH behind the first one.
        T: Tokens of a tile.
        N: Packed rows of a tile.
        BITS: 4 or 8.
        GROUP: Blocks of a group of channels with a scale of its own; 0 = one scale for all.
        FLUSH: Blocks that are summed as integers before a group's scale is applied; divides GROUP.
        SWAP: See the module.
        EVEN: ``features`` is a multiple of 128.
        ASM: See ``unpack_nibbles``.

    Returns:
        [N, T] (SWAP) or [T, N]: int32, 16 times too large for 4 bits; with GROUP float32, weight scales and zero
        points applied.
    """
    BYTES: tl.constexpr = 64 if BITS == 4 else 128
    WIDTH: tl.constexpr = 64 if BITS == 4 and not SWAP else 128
    rows = codes + token[:, None] * features + tl.arange(0, WIDTH)[None, :]
    weights = packed + output[:, None] * row_bytes + tl.arange(0, BYTES)[None, :]
    if GROUP == 0:
        total = tl.zeros((N, T) if SWAP else (T, N), dtype=tl.int32)
        for block in range(first, last):
            total = add_block(total, rows, weights, block, features, BITS, SWAP, EVEN, ASM)
        return total
    else:
        sums = tl.zeros((N, T) if SWAP else (T, N), dtype=tl.float32)
        correction = tl.zeros((N,), dtype=tl.float32)
        for block in range(first, last, FLUSH):
            part = tl.zeros((N, T) if SWAP else (T, N), dtype=tl.int32)
            for inner in tl.static_range(FLUSH):
                part = add_block(
                    part, rows, weights, block + inner, features, BITS, SWAP, EVEN, ASM
                )
            place = output * groups + block // GROUP
            scale = tl.load(weight_scale + place)
            correction += scale * tl.load(column_sum + place).to(tl.float32)
            unit = scale * 0.0625 if BITS == 4 else scale
            sums += part.to(tl.float32) * (unit[:, None] if SWAP else unit[None, :])
        zeros = tl.load(zero + token)
        if SWAP:
            return sums - correction[:, None] * zeros[None, :]
        else:
            return sums - zeros[:, None] * correction[None, :]
