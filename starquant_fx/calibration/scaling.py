"""Per-channel scales that move difficulty from activations to weights: SmoothQuant's and AWQ's."""

from __future__ import annotations

import torch
from torch import Tensor

from starquant_fx.calibration.fake_quantize import quantized_product
from starquant_fx.recipe import SiteRecipe

METHODS = ("smoothquant", "awq")
SMALLEST = 1e-4
"""Scales are kept above this share of their geometric mean, so that a dead channel stays harmless."""


def smoothquant_scale(tokens: Tensor, weight: Tensor, alpha: float) -> Tensor:
    """``max|x|^alpha / max|W|^(1 - alpha)`` per channel (Xiao et al. 2023, "SmoothQuant", eq. 4).

    Args:
        tokens: [N, d] inputs of a site.
        weight: [n, d] its linears' weights, one below the other.
        alpha: Migration strength in [0, 1].

    Returns:
        s [d] float32, > 0, with geometric mean 1.
    """
    peak_x = tokens.abs().amax(0).clamp(min=1e-5)
    peak_w = weight.abs().amax(0).clamp(min=1e-5)
    return _normalised(peak_x.pow(alpha) / peak_w.pow(1 - alpha))


def awq_scale(
    tokens: Tensor, weight: Tensor, options: SiteRecipe, grid: int
) -> tuple[Tensor, float]:
    """``mean|x|^alpha`` with the alpha on a grid that quantizes best (Lin et al. 2024, "AWQ", eq. 5).

    Args:
        tokens: [N, d] inputs of a site.
        weight: [n, d] its linears' weights, one below the other.
        options: Bits of both sides.
        grid: Values tried: 0, 1 / grid, ..., (grid - 1) / grid.

    Returns:
        s [d] float32, > 0, with geometric mean 1, and the alpha.
    """
    importance = tokens.abs().mean(0).clamp(min=1e-5)
    target = tokens @ weight.T
    best, chosen = torch.inf, 0.0
    for alpha in (step / grid for step in range(grid)):
        scale = _normalised(importance.pow(alpha))
        got = quantized_product(tokens / scale, weight * scale, options)
        error = float((got - target).pow(2).sum())
        if error < best:
            best, chosen = error, alpha
    return _normalised(importance.pow(chosen)), chosen


def _normalised(scale: Tensor) -> Tensor:
    scale = scale / scale.log().mean().exp()
    return scale.clamp(min=SMALLEST)
