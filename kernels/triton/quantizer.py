"""The per-token quantizer, the gates and what stands before a basis, as parts of the kernels of a site."""

# A kernel is not the Python that a type checker takes it for: constants of the compilation are numbers and tuples.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

TINY = tl.constexpr(1.1754943508222875e-38)
"""The smallest normal float32, the least scale there is."""
NEAREST = tl.constexpr(12582912.0)
"""1.5 * 2^23: adding it to a float32 of magnitude below 2^22 rounds it to the nearest integer, ties to even, and leaves
that integer in the low bits. Devices and the interpreter do the same, which no rounding function promises."""


@triton.jit
def state_of(state: tl.tensor, token: tl.tensor, inside: tl.tensor) -> Any:
    """State of a token, or of several; 0 where there are no states or no token."""
    if state is None:
        return token * 0
    return tl.load(state + token, mask=inside, other=0).to(tl.int32)


@triton.jit
def entered(
    value: tl.tensor, inverse: tl.tensor, shift: tl.tensor, signs: tl.tensor, label: tl.tensor, offset: tl.tensor,
    mask: tl.tensor, d: tl.constexpr, states: tl.constexpr,
) -> Any:  # fmt: skip
    """Norm, shift of the state and signs of a tile of values, in float32; an unknown state makes them NaN."""
    value = value.to(tl.float32)
    if shift is not None:
        known = (label >= 0) & (label < states)
        row = tl.load(shift + label * d + offset, mask=mask & known, other=0.0)
        unknown = tl.where(known, 0.0, float("nan"))
        value = value * inverse + row.to(tl.float32) + unknown
    if signs is not None:
        value = value * tl.load(signs + offset, mask=mask, other=0.0).to(tl.float32)
    return value


@triton.jit
def gated(
    value: tl.tensor,
    label: tl.tensor,
    column: tl.tensor,
    shared: tl.constexpr,
    bounds: tl.constexpr,
) -> Any:
    """Keeps the shared columns and those of the token's state; bounds has two numbers a state, or none at all.

    What is gated off is multiplied by zero, as the reference does it, so that a NaN there is not lost.
    """
    if len(bounds) == 0:
        return value
    low = label * 0
    high = label * 0
    for i in tl.static_range(len(bounds) // 2):
        low = tl.where(label == i, bounds[2 * i], low)
        high = tl.where(label == i, bounds[2 * i + 1], high)
    kept = (column < shared) | ((column >= low) & (column < high))
    return tl.where(kept, value, value * 0.0)


@triton.jit
def grid(
    low: tl.tensor, high: tl.tensor, clip: tl.tensor, bits: tl.constexpr, symmetric: tl.constexpr
) -> Any:
    """Step between codes (not yet bounded from below), its inverse, and zero point, of ranges [low, high]."""
    if clip is not None:
        low = low * tl.load(clip).to(tl.float32)
        high = high * tl.load(clip + 1).to(tl.float32)
    if symmetric:
        half: tl.constexpr = 2 ** (bits - 1)
        most: tl.constexpr = half - 1 if half > 1 else 1
        step = tl.div_rn(tl.maximum(-low, high), low * 0.0 + most)
        bounded = tl.maximum(step, TINY)
        zero = bounded * 0.0 + half
    else:
        step = tl.div_rn(high - low, low * 0.0 + (2**bits - 1))
        bounded = tl.maximum(step, TINY)
        zero = tl.minimum(tl.maximum(tl.div_rn(-low, bounded), 0.0), 2**bits - 1)
        zero = (zero + NEAREST) - NEAREST
    return step, tl.div_rn(bounded * 0.0 + 1.0, bounded), zero


@triton.jit
def encoded(value: tl.tensor, inverse: tl.tensor, zero: tl.tensor, bits: tl.constexpr) -> Any:
    """Codes int8 of values: at most seven bits as they are, eight bits less 128."""
    level = tl.minimum(tl.maximum(value * inverse + zero, 0.0), 2**bits - 1)
    code = (level + NEAREST).to(tl.int32, bitcast=True)
    if bits == 8:
        code = code ^ 128  # modulo 256 the same as less 128
    return code.to(tl.int8)


@triton.jit
def store_grid(
    scale: tl.tensor, zero: tl.tensor, token: tl.tensor, inside: tl.tensor, step: tl.tensor, carried: tl.tensor,
    poison: tl.tensor, point: tl.tensor, bits: tl.constexpr,
) -> Any:  # fmt: skip
    """Stores scale and zero point; ``carried`` is what the codes left out, ``poison`` is NaN if a value is."""
    whole = tl.maximum(step * carried, TINY)
    tl.store(scale + token, whole + whole * 0.0 + poison, mask=inside)  # an infinite scale is NaN
    tl.store(zero + token, point - (128 if bits == 8 else 0), mask=inside)
