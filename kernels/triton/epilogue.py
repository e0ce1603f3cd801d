"""What makes floats of the integers of a tile: scales, zero points, biases, branch.

A tile is [tokens, outputs], or [outputs, tokens] with SWAP; ``along_tokens`` and ``along_outputs`` lay vectors out.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Constants of kernels are upper case, and only they have a type.
# ruff: noqa: N803, N806
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false


@triton.jit
def along_tokens(vector, SWAP: tl.constexpr):
    """A vector over tokens, to be broadcast over a tile."""
    return vector[None, :] if SWAP else vector[:, None]


@triton.jit
def along_outputs(vector, SWAP: tl.constexpr):
    """A vector over outputs, to be broadcast over a tile."""
    return vector[:, None] if SWAP else vector[None, :]


@triton.jit
def packed_rows(output0, outputs, N: tl.constexpr, PAIR: tl.constexpr):
    """The packed rows of a tile of N, int64 [N], and which of them exist.

    With PAIR rows of the first and second half (gate and up) alternate every eight: bit 3 of a row or column of the
    matrix instructions' accumulators is one of a thread's registers, so that ``store.halves`` moves no data.
    """
    place = tl.arange(0, N)
    if PAIR:
        output = output0 + place // 16 * 8 + place % 8
        row = output + place // 8 % 2 * outputs
    else:
        output = output0 + place
        row = output
    return row.to(tl.int64), output < outputs


@triton.jit
def to_floats(
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
    rows,
    token,
    there,
    row,
    inside,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    STATES: tl.constexpr,
    RANK: tl.constexpr,
    SWAP: tl.constexpr,
):
    """What ``accumulate`` made of a tile to the linear's result in float32, in the order of the reference.

    Args:
        total: The tile.
        scale: As ``gemm.linear_kernel``, like the other pointers and constants.
        zero: As there.
        weight_scale: As there.
        column_sum: As there.
        bias: As there.
        state: As there.
        state_bias: As there.
        coefficients: As there.
        image: As there.
        rows: Number of packed rows.
        token: int64 [T] tokens of the tile.
        there: bool [T], which of them exist. Masks rather than clamped indices, so that loads stay vectors.
        row: int64 [N] packed rows of the tile.
        inside: bool [N], which of them exist.
        BITS: As there.
        GROUP: As there.
        STATES: As there.
        RANK: As there.
        SWAP: As there.

    Returns:
        float32, the shape of ``total``.
    """
    factor = along_tokens(tl.load(scale + token, mask=there, other=0.0), SWAP)
    if GROUP:
        y = total * factor
    else:
        UNIT: tl.constexpr = 16 if BITS == 4 else 1
        sums = along_outputs(tl.load(column_sum + row, mask=inside, other=0) * UNIT, SWAP)
        total -= (
            along_tokens(tl.load(zero + token, mask=there, other=0.0).to(tl.int32), SWAP) * sums
        )
        y = total.to(tl.float32)
        if BITS == 4:
            y = y * 0.0625
        y = y * factor * along_outputs(tl.load(weight_scale + row, mask=inside, other=0.0), SWAP)
    if bias is not None:
        y += along_outputs(tl.load(bias + row, mask=inside, other=0.0).to(tl.float32), SWAP)
    if state_bias is not None:
        states = along_tokens(tl.load(state + token, mask=there, other=0), SWAP)
        own = along_outputs(tl.load(state_bias + row, mask=inside, other=0.0).to(tl.float32), SWAP)
        chosen = tl.where(states == 0, own, 0.0)
        for index in tl.static_range(1, STATES):
            own = along_outputs(
                tl.load(state_bias + index * rows + row, mask=inside, other=0.0).to(tl.float32),
                SWAP,
            )
            chosen = tl.where(states == index, own, chosen)
        y += chosen
    if coefficients is not None:
        for start in tl.static_range(0, RANK, 16):
            column = start + tl.arange(0, 16)
            left = tl.load(
                coefficients + token[:, None] * RANK + column[None, :],
                mask=there[:, None],
                other=0.0,
            )
            right = tl.load(
                image + column[:, None] * rows + row[None, :], mask=inside[None, :], other=0.0
            )
            # float32 exactly, not in TF32.
            if SWAP:
                y = tl.dot(tl.trans(right), tl.trans(left), acc=y, input_precision="ieee")
            else:
                y = tl.dot(left, right, acc=y, input_precision="ieee")
    return y
