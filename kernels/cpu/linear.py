"""Integer linears with the whole epilogue."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from starquant_fx.kernels.cpu.library import call, floats, padded, row_pairs
from starquant_fx.kernels.reference import GROUP, PANEL

RANK = 16
"""Directions of a state that the branch of the kernel has room for."""


def panel_linear(
    codes: Tensor,
    scale: Tensor,
    zero: Tensor,
    packed: Tensor,
    weight_scale: Tensor,
    column_sum: Tensor,
    weight_bits: int,
    bias: Tensor | None,
    state: Tensor | None,
    state_bias: Tensor | None,
    dtype: torch.dtype,
    coefficients: Tensor | None = None,
    image: Tensor | None = None,
) -> Tensor:
    """``reference.quantized_linear``, bit for bit unless there is a branch.

    Args:
        codes: Activation codes uint8 [..., d].
        scale: float32 [..., 1].
        zero: float32 [..., 1].
        packed: What ``reference.pack`` made of the weight codes.
        weight_scale: float32 [n].
        column_sum: Sum of the weight codes per output channel, int32 [n].
        weight_bits: 2..8.
        bias: [n] or None.
        state: [...] or None.
        state_bias: [S, n] or None.
        dtype: float32, or another float type, which float32 is rounded to.
        coefficients: Of the low-rank branch, [..., k] with k <= 16, or None; needs the state.
        image: See ``branch_image``.

    Returns:
        [..., n].
    """
    rows, codes = codes.shape[:-1].numel(), padded(codes, GROUP)
    half = dtype == torch.bfloat16
    kept = dtype if half else torch.float32
    out = torch.empty(*codes.shape[:-1], weight_scale.numel(), dtype=kept, device="cpu")
    used = [
        codes,
        packed,
        zero.to(torch.int32).contiguous(),
        floats(scale),
        floats(weight_scale),
        column_sum.contiguous(),
        floats(bias),
        None if state is None else state.contiguous(),
        None if state is None else floats(state_bias),
        None if coefficients is None else padded(coefficients.to(torch.bfloat16), RANK),
        None if image is None else image.to(torch.bfloat16),
    ]
    sizes = (rows, weight_scale.numel(), codes.shape[-1])
    call("starquant_linear", *used, out, *sizes, 4 if weight_bits <= 4 else 8, int(half))
    return out.to(dtype)


def branch_image(image: Tensor) -> Tensor:
    """Lays [S, k, n], k <= 16, out in pairs of rows: bfloat16 [S, 8, n up to a whole panel, 2]."""
    rows = torch.nn.functional.pad(image, (0, 0, 0, RANK - image.shape[1]))
    return row_pairs(padded(rows, PANEL))


def _panel_linear_fake(
    codes: Tensor, scale: Tensor, zero: Tensor, packed: Tensor, weight_scale: Tensor, *rest: Any
) -> Tensor:
    dtype = next(value for value in rest if isinstance(value, torch.dtype))
    return codes.new_empty((*codes.shape[:-1], weight_scale.shape[0]), dtype=dtype)


torch.library.custom_op(
    "starquant::panel_linear",
    panel_linear,
    mutates_args=(),
    schema="(Tensor codes, Tensor scale, Tensor zero, Tensor packed, Tensor weight_scale, Tensor column_sum, "
    "int weight_bits, Tensor? bias, Tensor? state, Tensor? state_bias, ScalarType dtype, Tensor? coefficients=None, "
    "Tensor? image=None) -> Tensor",
).register_fake(_panel_linear_fake)
