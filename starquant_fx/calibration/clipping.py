"""Clip factors by search on a grid."""

from __future__ import annotations

import torch
from torch import Tensor

from starquant_fx.calibration.fake_quantize import fake_quantize_weight, quantized_product
from starquant_fx.recipe import SiteRecipe

TOKENS = 2048
"""Tokens that the search of an activation's factor looks at, at most."""


def weight_clip(weight: Tensor, second: Tensor, bits: int, factors: Tensor) -> Tensor:
    """The factor of each output channel with the least ``(w - w') H (w - w')^T``.

    Args:
        weight: [n, d].
        second: H = X^T X / N [d, d] of the inputs.
        bits: 2..8.
        factors: [F] factors to try, in (0, 1].

    Returns:
        [n] float32.
    """
    best = torch.full((weight.shape[0],), torch.inf)
    chosen = torch.ones(weight.shape[0])
    for factor in factors.flip(0):
        clip = factor.expand(weight.shape[0])
        error = weight - fake_quantize_weight(weight, bits, clip)
        loss = ((error @ second) * error).sum(-1)
        chosen = torch.where(loss < best, factor, chosen)
        best = torch.minimum(loss, best)
    return chosen


def activation_clip(
    tokens: Tensor, weight: Tensor, options: SiteRecipe, clip_weight: Tensor | None, factors: Tensor
) -> Tensor:
    """The one factor for minimum and maximum with the least output error.

    Args:
        tokens: [N, d] what the quantizer reads.
        weight: [n, d].
        options: Bits of both sides.
        clip_weight: [n] the weights' factors, or None.
        factors: [F] factors to try, in (0, 1].

    Returns:
        [2] float32, both the same.
    """
    rows = tokens[:: max(1, tokens.shape[0] // TOKENS)]
    target = rows @ weight.T
    losses = torch.stack(
        [
            (quantized_product(rows, weight, options, f.expand(2), clip_weight) - target)
            .pow(2)
            .sum()
            for f in factors
        ]
    )
    return factors[losses.argmin()].repeat(2)
