"""The kernels of ``head``: a tile of logits to the greedy choice in it, and the choices of all tiles of a row to one.

Logits live in registers only. Those of a tile become the largest one, the first index that has it, and the sum of
``exp(logit - largest)``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from starquant_fx.kernels.triton.epilogue import along_outputs, packed_rows, to_floats
from starquant_fx.kernels.triton.gemm import tile_place
from starquant_fx.kernels.triton.product import accumulate

# Constants of kernels are upper case, and only they have a type.
# ruff: noqa: N803, N806
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false

NOWHERE = tl.constexpr(2**31 - 1)
"""Behind every index."""


@triton.jit
def choose(logits, index, AXIS: tl.constexpr):
    """The largest of float32 logits along an axis, NaN if one is; and the smallest ``index`` that has it."""
    broken = logits != logits
    any_broken = tl.max(broken.to(tl.int32), AXIS) != 0
    peak = tl.max(tl.where(broken, -float("inf"), logits), AXIS)
    largest = tl.where(any_broken, float("nan"), peak)
    hit = tl.where(tl.expand_dims(any_broken, AXIS), broken, logits == tl.expand_dims(peak, AXIS))
    return largest, tl.min(tl.where(hit, index, NOWHERE), AXIS)


@triton.jit
def store_choice(
    y,
    largest,
    token_index,
    total,
    kind,
    rows,
    outputs,
    token0,
    output0,
    T: tl.constexpr,
    N: tl.constexpr,
    SWAP: tl.constexpr,
):
    """Stores a tile's choices, of its logits ``y`` rounded to the type ``kind`` points to, in [rows, tiles]."""
    AXIS: tl.constexpr = 0 if SWAP else 1
    token = token0 + tl.arange(0, T)
    column = output0 + tl.arange(0, N)
    inside = along_outputs(column < outputs, SWAP)
    y = tl.where(inside, y.to(kind.dtype.element_ty).to(tl.float32), -float("inf"))
    index = tl.where(inside, along_outputs(column, SWAP), NOWHERE)
    peak, first = choose(y, index, AXIS)
    # Nothing but -inf: the sum is zero, not NaN.
    base = tl.where(peak == -float("inf"), 0.0, peak)
    sums = tl.sum(tl.exp(y - tl.expand_dims(base, AXIS)), AXIS)
    at = token.to(tl.int64) * tl.cdiv(outputs, N) + output0 // N
    there = token < rows
    tl.store(largest + at, peak, mask=there)
    tl.store(token_index + at, first, mask=there)
    tl.store(total + at, sums, mask=there)


@triton.jit
def float_head_kernel(
    x,
    weight,
    bias,
    largest,
    token_index,
    total,
    rows,
    outputs,
    features,
    T: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    SWAP: tl.constexpr,
    EVEN: tl.constexpr,
    BAND: tl.constexpr,
):
    """Choices of a tile of ``x @ weight^T + bias``, rounded to the type of ``x``.

    Args:
        x: [rows, features].
        weight: [outputs, features], of the same type.
        bias: [outputs] or None.
        largest: float32 [rows, tiles], result.
        token_index: int32 [rows, tiles], result.
        total: float32 [rows, tiles], result.
        rows: Their number.
        outputs: Size of the vocabulary.
        features: Channels.
        T: Rows of a tile.
        N: Outputs of a tile.
        K: Channels of a step.
        SWAP: The weights are the left operand of the product.
        EVEN: K divides ``features``.
        BAND: See ``gemm.tile_place``.
    """
    token0, output0 = tile_place(rows, outputs, T, N, BAND)
    token = token0 + tl.arange(0, T)
    output = output0 + tl.arange(0, N)
    channel = tl.arange(0, K)
    safe = tl.where(token < rows, token, 0).to(tl.int64)
    row = tl.where(output < outputs, output, 0).to(tl.int64)
    left = x + safe[:, None] * features + channel[None, :]
    right = weight + row[:, None] * features + channel[None, :]
    y = tl.zeros((N, T) if SWAP else (T, N), dtype=tl.float32)
    for start in range(0, features, K):
        if EVEN:
            a = tl.load(left + start)
            b = tl.load(right + start)
        else:
            keep = (start + channel < features)[None, :]
            a = tl.load(left + start, mask=keep, other=0.0)
            b = tl.load(right + start, mask=keep, other=0.0)
        # float32 exactly, not in TF32.
        if SWAP:
            y = tl.dot(b, tl.trans(a), acc=y, input_precision="ieee")
        else:
            y = tl.dot(a, tl.trans(b), acc=y, input_precision="ieee")
    if bias is not None:
        added = tl.load(bias + output, mask=output < outputs, other=0.0).to(tl.float32)
        y += along_outputs(added, SWAP)
    store_choice(y, largest, token_index, total, x, rows, outputs, token0, output0, T, N, SWAP)


@triton.jit
def integer_head_kernel(
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
    kind,
    largest,
    token_index,
    total,
    rows,
    outputs,
    features,
    row_bytes,
    blocks,
    groups,
    T: tl.constexpr,
    N: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    FLUSH: tl.constexpr,
    STATES: tl.constexpr,
    RANK: tl.constexpr,
    SWAP: tl.constexpr,
    EVEN: tl.constexpr,
    ASM: tl.constexpr,
    BAND: tl.constexpr,
):
    """Choices of a tile of a quantized head; arguments as ``gemm.linear_kernel`` and ``float_head_kernel``.

    ``kind`` points to anything of the type that logits are rounded to.
    """
    token0, output0 = tile_place(rows, outputs, T, N, BAND)
    token = token0 + tl.arange(0, T)
    there = token < rows
    row, inside = packed_rows(output0, outputs, N, False)
    sums = accumulate(
        codes,
        packed,
        weight_scale,
        column_sum,
        zero,
        features,
        row_bytes,
        groups,
        tl.where(there, token, 0).to(tl.int64),
        tl.where(inside, row, 0),
        0,
        blocks,
        T,
        N,
        BITS,
        GROUP,
        FLUSH,
        SWAP,
        EVEN,
        ASM,
    )
    y = to_floats(
        sums,
        scale,
        zero,
        weight_scale,
        column_sum,
        bias,
        state,
        state_bias,
        coefficients,
        image,
        outputs,
        token.to(tl.int64),
        there,
        row,
        inside,
        BITS,
        GROUP,
        STATES,
        RANK,
        SWAP,
    )
    store_choice(y, largest, token_index, total, kind, rows, outputs, token0, output0, T, N, SWAP)


@triton.jit
def combine_kernel(
    largest, token_index, total, peak, tokens, probability, tiles, WIDTH: tl.constexpr
):
    """The choices of a row's tiles, at most WIDTH, to one.

    Args:
        largest: float32 [rows, tiles], like ``token_index`` (int32) and ``total``.
        token_index: As there.
        total: As there.
        peak: [rows], result: the largest logit.
        tokens: int64 [rows], result.
        probability: [rows], result, in the type of ``peak``.
        tiles: Their number.
        WIDTH: A power of two.
    """
    row = tl.program_id(0).to(tl.int64)
    tile = tl.arange(0, WIDTH)
    inside = tile < tiles
    at = row * tiles + tile
    values = tl.load(largest + at, mask=inside, other=-float("inf"))
    index = tl.load(token_index + at, mask=inside, other=NOWHERE)
    most, first = choose(values, index, 0)
    sums = tl.load(total + at, mask=inside, other=0.0)
    # A row of nothing but -inf has no probabilities: exp(-inf + inf) is NaN.
    share = tl.sum(sums * tl.exp(values - tl.where(most == -float("inf"), 0.0, most)), 0)
    chance = tl.where(most == -float("inf"), float("nan"), 1.0 / share)
    tl.store(peak + row, most.to(peak.dtype.element_ty))
    tl.store(tokens + row, first.to(tl.int64))
    tl.store(probability + row, chance.to(probability.dtype.element_ty))
