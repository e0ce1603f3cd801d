"""Kernels beside the Kronecker basis: gates and quantizer, block-diagonal basis, and what precedes a basis."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from starquant_fx.kernels.triton.quantizer import (
    encoded,
    entered,
    gated,
    grid,
    state_of,
    store_grid,
)


@triton.jit
def _squares(x: tl.tensor, d: tl.constexpr, piece: tl.constexpr) -> Any:
    """Sum of the squares of a token's channels in float32."""
    column = tl.arange(0, piece)
    total = tl.zeros([piece], tl.float32)
    for start in range(0, d, piece):
        value = tl.load(x + start + column, mask=start + column < d, other=0.0)
        total += value.to(tl.float32) * value.to(tl.float32)
    return tl.sum(total)


@triton.jit
def gate_kernel(
    x: tl.tensor, state: tl.tensor, shift: tl.tensor, clip: tl.tensor, codes: tl.tensor,
    scale: tl.tensor, zero: tl.tensor, eps: tl.tensor,
    norm: tl.constexpr, states: tl.constexpr, shared: tl.constexpr, bounds: tl.constexpr,
    bits: tl.constexpr, symmetric: tl.constexpr, d: tl.constexpr, piece: tl.constexpr,
) -> None:  # fmt: skip
    """One token a program, ``piece`` channels at a time: twice over the token, the second time from the cache."""
    token = tl.program_id(0)
    at = token.to(tl.int64) * d
    label = state_of(state, token, True)
    column = tl.arange(0, piece)
    inverse = 1.0
    if norm:
        inverse = tl.rsqrt(_squares(x + at, d, piece) / d + eps)
    low = tl.zeros([piece], tl.float32)
    high = tl.zeros([piece], tl.float32)
    poison = tl.zeros([piece], tl.float32)
    for start in range(0, d, piece):
        channel = start + column
        mask = channel < d
        value = tl.load(x + at + channel, mask=mask, other=0.0)
        wide = entered(value, inverse, shift, None, label, channel, mask, d, states)
        wide = tl.where(mask, wide, 0.0)
        wide = gated(wide, label, channel, shared, bounds)
        low = tl.minimum(low, wide)
        high = tl.maximum(high, wide)
        poison += wide * 0.0
    size, per, point = grid(tl.min(low), tl.max(high), clip, bits, symmetric)
    carried = inverse if norm and shift is None else 1.0
    store_grid(scale, zero, token, True, size, carried, tl.sum(poison), point, bits)
    for start in range(0, d, piece):
        channel = start + column
        mask = channel < d
        value = tl.load(x + at + channel, mask=mask, other=0.0)
        wide = entered(value, inverse, shift, None, label, channel, mask, d, states)
        wide = gated(wide, label, channel, shared, bounds)
        tl.store(codes + at + channel, encoded(wide, per, point, bits), mask=mask)


@triton.jit
def block_kernel(
    x: tl.tensor, state: tl.tensor, shift: tl.tensor, squares: tl.tensor, factor: tl.tensor,
    out: tl.tensor, tokens: tl.tensor, eps: tl.tensor,
    states: tl.constexpr, d: tl.constexpr, g: tl.constexpr, rows: tl.constexpr, width: tl.constexpr,
) -> None:  # fmt: skip
    """A tile of ``rows`` tokens times one block [g, g] (padded to ``width``) of a block-diagonal basis."""
    token = tl.program_id(0) * rows + tl.arange(0, rows)
    block = tl.program_id(1)
    inside = token < tokens
    i = tl.arange(0, width)
    offset = (block * g + i)[None, :]
    mask = inside[:, None] & (i[None, :] < g)
    at = token.to(tl.int64)[:, None] * d + offset
    value = tl.load(x + at, mask=mask, other=0.0)
    inverse = 1.0
    if squares is not None:
        total = tl.load(squares + token, mask=inside, other=0.0)
        inverse = tl.rsqrt(total / d + eps)[:, None]
    if shift is not None:
        label = state_of(state, token, inside)[:, None]
        value = entered(value, inverse, shift, None, label, offset, mask, d, states)
        value = value.to(x.dtype.element_ty)
        inverse = 1.0
    inner = (i[:, None] < g) & (i[None, :] < g)
    square = tl.load(factor + block * g * g + i[:, None] * g + i[None, :], mask=inner, other=0.0)
    turned = tl.dot(value, square.to(value.dtype), input_precision="ieee") * inverse
    tl.store(out + at, turned.to(out.dtype.element_ty), mask=mask)


@triton.jit
def squares_kernel(x: tl.tensor, squares: tl.tensor, d: tl.constexpr, piece: tl.constexpr) -> None:
    """Sum of the squares of a token's channels; one token a program."""
    token = tl.program_id(0)
    tl.store(squares + token, _squares(x + token.to(tl.int64) * d, d, piece))


@triton.jit
def enter_kernel(
    x: tl.tensor, state: tl.tensor, shift: tl.tensor, signs: tl.tensor, out: tl.tensor, eps: tl.tensor,
    norm: tl.constexpr, states: tl.constexpr, d: tl.constexpr, piece: tl.constexpr,
) -> None:  # fmt: skip
    """Norm, shift of the state and signs of a token, in the dtype of ``x``; one token a program."""
    token = tl.program_id(0)
    at = token.to(tl.int64) * d
    label = state_of(state, token, True)
    inverse = 1.0
    if norm:
        inverse = tl.rsqrt(_squares(x + at, d, piece) / d + eps)
    for start in range(0, d, piece):
        channel = start + tl.arange(0, piece)
        mask = channel < d
        value = tl.load(x + at + channel, mask=mask, other=0.0)
        if norm and shift is None:
            value = value.to(tl.float32) * inverse
        value = entered(value, inverse, shift, signs, label, channel, mask, d, states)
        tl.store(out + at + channel, value.to(out.dtype.element_ty), mask=mask)
