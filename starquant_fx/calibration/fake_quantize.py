"""Quantize-dequantize with a straight-through gradient, on the same grids as the kernels."""

from __future__ import annotations

from torch import Tensor

from starquant_fx.kernels import reference
from starquant_fx.recipe import FULL_PRECISION, SiteRecipe


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


def quantized_product(
    x: Tensor,
    w: Tensor,
    options: SiteRecipe,
    clip: Tensor | None = None,
    clip_weight: Tensor | None = None,
) -> Tensor:
    """``x W^T`` with both sides quantized as a site's options say.

    Args:
        x: [N, d].
        w: [n, d].
        options: Bits; 16 leaves a side as it is.
        clip: [2] clip factors of the activations or None.
        clip_weight: [n] clip factors of the weights or None.

    Returns:
        [N, n]; differentiable in everything.
    """
    if options.activation_bits != FULL_PRECISION:
        x = fake_quantize_activation(x, options.activation_bits, options.symmetric, clip)
    if options.weight_bits != FULL_PRECISION:
        w = fake_quantize_weight(w, options.weight_bits, clip_weight)
    return x @ w.T
