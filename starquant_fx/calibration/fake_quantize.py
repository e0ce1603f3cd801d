"""Quantize-dequantize with a straight-through gradient, on the same grids as the kernels."""

from __future__ import annotations

from torch import Tensor

from starquant_fx.kernels import reference


def straight_through_round(x: Tensor) -> Tensor:
    """Rounds; the gradient passes as if it had not."""
    return x + (x.round() - x).detach()


def fake_quantize_activation(x: Tensor, bits: int, symmetric: bool, clip: Tensor | None) -> Tensor:
    """Per-token quantize-dequantize of [..., d]; gradients reach x and clip [2]."""
    low, high = reference.activation_range(x, symmetric, clip)
    scale, zero = reference.activation_grid(low, high, bits, symmetric, straight_through_round)
    codes = straight_through_round(x / scale + zero).clamp(0, 2**bits - 1)
    return (codes - zero) * scale


def fake_quantize_weight(w: Tensor, bits: int, clip: Tensor | None) -> Tensor:
    """Per-output-channel quantize-dequantize of [n, d]; gradients reach w and clip [n]."""
    scale = reference.weight_scale(w, bits, clip).unsqueeze(1)
    half = 2 ** (bits - 1)
    return straight_through_round(w / scale).clamp(-half, half - 1) * scale
