"""Kernels of a site: Kronecker basis with gates and quantizer, gates and quantizer alone, block-diagonal basis."""

# A kernel is not the Python that a type checker takes it for: what exists depends on constants of the compilation.
# pyright: reportPossiblyUnboundVariable=false, reportAttributeAccessIssue=false, reportArgumentType=false

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
def _times(x: tl.tensor, y: tl.tensor) -> Any:
    """A product accumulated in float32; of float32 tensors without rounding them to TF32."""
    return tl.dot(x, y, input_precision="ieee")


@triton.jit
def _square(
    factor: tl.tensor, size: tl.constexpr, row: tl.tensor, column: tl.tensor, dtype: tl.constexpr
) -> Any:
    """A part of a factor [size, size], zero outside."""
    mask = (row[:, None] < size) & (column[None, :] < size)
    return tl.load(factor + row[:, None] * size + column[None, :], mask=mask, other=0.0).to(dtype)


@triton.jit
def kronecker_kernel(
    x: tl.tensor, state: tl.tensor, shift: tl.tensor, signs: tl.tensor, left: tl.tensor, right: tl.tensor,
    clip: tl.tensor, codes: tl.tensor, scale: tl.tensor, zero: tl.tensor, tokens: tl.tensor, eps: tl.tensor,
    norm: tl.constexpr, states: tl.constexpr, shared: tl.constexpr, bounds: tl.constexpr,
    bits: tl.constexpr, symmetric: tl.constexpr,
    a: tl.constexpr, b: tl.constexpr,
    rows: tl.constexpr, first: tl.constexpr, second: tl.constexpr, each: tl.constexpr,
    stay: tl.constexpr,
) -> None:  # fmt: skip
    """Whole tokens, one after the other, while the factors stay: ``quantize(gate(L^T (X R)))`` with X [a, b].

    X is padded to [rows, first + second] on the chip only; ``second`` may be 0. A factor b = 96 in pieces of 64 and 32
    costs 9/16 of one padded to 128. ``each`` is the number of tokens a program does.
    """
    d: tl.constexpr = a * b
    dtype: tl.constexpr = x.dtype.element_ty
    i = tl.arange(0, rows)
    j1 = tl.arange(0, first)
    if stay:
        lt = tl.trans(_square(left, a, i, i, dtype))
        r11 = _square(right, b, j1, j1, dtype)
    o1 = i[:, None] * b + j1[None, :]
    m1 = (i[:, None] < a) & (j1[None, :] < b)
    if second:
        j2 = first + tl.arange(0, second)
        if stay:
            r12 = _square(right, b, j1, j2, dtype)
            r21 = _square(right, b, j2, j1, dtype)
            r22 = _square(right, b, j2, j2, dtype)
        o2 = i[:, None] * b + j2[None, :]
        m2 = (i[:, None] < a) & (j2[None, :] < b)
    for step in range(each):
        token = step * tl.num_programs(0) + tl.program_id(0)
        inside = token < tokens
        at = token.to(tl.int64) * d
        label = state_of(state, token, inside)
        x1 = tl.load(x + at + o1, mask=m1 & inside, other=0.0)
        if second:
            x2 = tl.load(x + at + o2, mask=m2 & inside, other=0.0)
        inverse = 1.0
        if norm:
            w1 = x1.to(tl.float32)
            total = tl.sum(w1 * w1)
            if second:
                w2 = x2.to(tl.float32)
                total += tl.sum(w2 * w2)
            inverse = tl.rsqrt(total / d + eps)
        if shift is not None or signs is not None:
            x1 = entered(x1, inverse, shift, signs, label, o1, m1, d, states).to(dtype)
            if second:
                x2 = entered(x2, inverse, shift, signs, label, o2, m2, d, states).to(dtype)
        if not stay:  # barriers keep the compiler from loading all of this at once, for which registers are short
            r11 = _square(right, b, j1, j1, dtype)
            if second:
                r21 = _square(right, b, j2, j1, dtype)
        y1 = _times(x1, r11)
        if second:
            y1 = (y1 + _times(x2, r21)).to(dtype)
            if not stay:
                tl.debug_barrier()
                r12 = _square(right, b, j1, j2, dtype)
                r22 = _square(right, b, j2, j2, dtype)
            y2 = _times(x1, r12) + _times(x2, r22)
        if not stay:
            tl.debug_barrier()
            lt = tl.trans(_square(left, a, i, i, dtype))
        if second:
            z2 = gated(_times(lt, y2.to(dtype)), label, o2, shared, bounds)
        z1 = gated(_times(lt, y1.to(dtype)), label, o1, shared, bounds)
        low = tl.minimum(tl.min(z1), 0.0)
        high = tl.maximum(tl.max(z1), 0.0)
        poison = tl.sum(z1 * 0.0)  # minima and maxima pass over NaN
        if second:
            low = tl.minimum(tl.min(z2), low)
            high = tl.maximum(tl.max(z2), high)
            poison += tl.sum(z2 * 0.0)
        size, per, point = grid(low, high, clip, bits, symmetric)
        # The codes of a token do not depend on its norm, where nothing was added after it.
        carried = inverse if norm and shift is None else 1.0
        store_grid(scale, zero, token, inside, size, carried, poison, point, bits)
        tl.store(codes + at + o1, encoded(z1, per, point, bits), mask=m1 & inside)
        if second:
            tl.store(codes + at + o2, encoded(z2, per, point, bits), mask=m2 & inside)
