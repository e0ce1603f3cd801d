"""TAC: the closed form of the block-diagonal affine correction (paper, eq. 17-18)."""

from __future__ import annotations

import dataclasses
import itertools

import torch
from torch import Tensor

from starquant_fx.errors import RecipeError

ESTIMATORS = ("covariance", "ridge")
DAMPINGS = (0.001, 0.01, 0.1, 1.0)
SMOOTHS = (0.0, 0.1, 0.5)
SHRINKS = (0.0, 0.2, 0.5, 0.8, 1.0)
CHOSEN = ("damping", "smooth", "shrink")
"""Constants that ``choose`` chooses."""


@dataclasses.dataclass(frozen=True)
class TacOptions:
    """Constants of the estimate. The paper's text does not give their values; the defaults are our guesses.

    Attributes:
        damping: lambda, share of the mean variance added to the quantized covariance.
        eps: Added on top.
        smooth: alpha, how far singular values move towards their mean.
        shrink: beta, how far the matrix moves towards the identity.
        estimator: ``covariance`` (the paper's) or ``ridge`` (uses which token is paired with which).
        scaled: Estimate in units of each channel's own deviation, so that a loud channel's variance does not damp the
            quiet ones of its block; the paper does not.
    """

    damping: float = 0.01
    eps: float = 1e-6
    smooth: float = 0.1
    shrink: float = 0.2
    estimator: str = "covariance"
    scaled: bool = True

    def __post_init__(self) -> None:
        """Checks names and ranges."""
        if self.estimator not in ESTIMATORS:
            raise RecipeError(
                "unknown TAC estimator", expected=", ".join(ESTIMATORS), got=self.estimator
            )
        if min(self.damping, self.eps) < 0 or not (0 <= self.smooth <= 1 and 0 <= self.shrink <= 1):
            raise RecipeError(
                "TAC constants are out of range",
                expected="damping, eps >= 0; smooth, shrink in [0, 1]",
                got=str(self),
            )


@dataclasses.dataclass(frozen=True)
class Moments:
    """First and second moments of paired activations, float64, blocks of g channels; all that an estimate needs.

    Attributes:
        mean_full: [d / g, g].
        mean_quantized: [d / g, g].
        cov_full: [d / g, g, g].
        cov_quantized: [d / g, g, g].
        cross: [d / g, g, g], Cov(f, q).
    """

    mean_full: Tensor
    mean_quantized: Tensor
    cov_full: Tensor
    cov_quantized: Tensor
    cross: Tensor

    @property
    def deviation(self) -> Tensor:
        """[d / g, g] deviation of each reference channel, a dead one's a millionth of its block's largest."""
        deviation = self.cov_full.diagonal(dim1=-2, dim2=-1).sqrt()
        floor = 1e-6 * deviation.amax(-1, keepdim=True)
        return deviation.maximum(floor).clamp(min=torch.finfo(torch.float32).tiny)


def moments(full: Tensor, quantized: Tensor, block: int) -> Moments:
    """Moments of paired activations [N, d] in blocks of ``block`` channels; see ``estimate``."""
    f, q = (t.double().unflatten(-1, (-1, block)).transpose(0, 1) for t in (full, quantized))
    mean_f, mean_q = f.mean(1, keepdim=True), q.mean(1, keepdim=True)
    f, q = f - mean_f, q - mean_q
    count = max(full.shape[0], 1)
    second = (f.mT @ f / count, q.mT @ q / count, f.mT @ q / count)
    return Moments(mean_f.squeeze(1), mean_q.squeeze(1), *second)


def estimate(
    full: Tensor, quantized: Tensor, block: int, options: TacOptions
) -> tuple[Tensor, Tensor]:
    """Estimates the correction of quantized towards full-precision attention outputs.

    Args:
        full: [N, d] reference activations, without padding tokens.
        quantized: [N, d], paired with ``full``.
        block: g, divides d.
        options: Constants.

    Returns:
        Matrix [d / g, g, g] and bias [d], float32; applied as y = x M^T + b per block.
    """
    matrix, bias = solve(moments(full, quantized, block), options)
    return matrix.float(), bias.flatten().float()


def solve(of: Moments, options: TacOptions) -> tuple[Tensor, Tensor]:
    """The closed form (paper, eq. 17-18).

    Where ``scaled``, both sides are divided by the channels' deviations sigma in the reference before, and M is
    diag(sigma) M' diag(sigma)^-1 after. With delta = lambda tr(Sigma_q) / g + eps: M0 = Sigma_f^(1/2)
    (Sigma_q + delta I)^(-1/2) (covariance), or Cov(f, q) (Sigma_q + delta I)^(-1) (ridge); then singular values are
    smoothed, the matrix is shrunk towards the identity, and b = mu_f - M mu_q.

    Args:
        of: Moments of the calibration tokens.
        options: Constants.

    Returns:
        Matrix [d / g, g, g] and bias [d / g, g], float64.
    """
    block = of.mean_full.shape[-1]
    deviation = of.deviation if options.scaled else torch.ones_like(of.mean_full)
    units = deviation.unsqueeze(2) * deviation.unsqueeze(1)
    cov_f, cov_q, cross = of.cov_full / units, of.cov_quantized / units, of.cross / units
    identity = torch.eye(block, dtype=torch.float64)
    trace = cov_q.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    damped = cov_q + (options.damping * trace / block + options.eps) * identity
    if options.estimator == "ridge":
        matrix = cross @ torch.linalg.pinv(damped, hermitian=True)
    else:
        matrix = _power(cov_f, 0.5) @ _power(damped, -0.5)
    u, singular, vt = torch.linalg.svd(matrix)
    singular = (1 - options.smooth) * singular + options.smooth * singular.mean(-1, keepdim=True)
    matrix = (1 - options.shrink) * (u * singular.unsqueeze(-2)) @ vt + options.shrink * identity
    matrix = deviation.unsqueeze(2) * matrix / deviation.unsqueeze(1)
    return matrix, of.mean_full - (matrix @ of.mean_quantized.unsqueeze(-1)).squeeze(-1)


def channel_errors(of: Moments, matrix: Tensor, bias: Tensor) -> Tensor:
    """Mean squared error of each channel after the correction, E (x M^T + b - f)^2, from the moments.

    Args:
        of: Moments of the tokens to measure on.
        matrix: [d / g, g, g].
        bias: [d / g, g].

    Returns:
        [d / g, g], float64.
    """
    spread = (matrix @ of.cov_quantized * matrix).sum(-1) - 2 * (matrix * of.cross).sum(-1)
    offset = (matrix @ of.mean_quantized.unsqueeze(-1)).squeeze(-1) + bias - of.mean_full
    return spread + of.cov_full.diagonal(dim1=-2, dim2=-1) + offset.pow(2)


def choose(
    full: Tensor, quantized: Tensor, sequence: Tensor, block: int, options: TacOptions
) -> TacOptions:
    """Chooses damping, smoothing and shrinkage by the reconstruction error on held-out sequences.

    Estimated from every other sequence, measured on the rest, in units of each channel's deviation if the estimate is;
    one choice for all blocks of a layer.

    Args:
        full: [N, d] reference activations, without padding tokens.
        quantized: [N, d], paired with ``full``.
        sequence: [N] which sequence each token belongs to.
        block: g, divides d.
        options: Estimator, units and eps; the rest is chosen, and kept if there are fewer than two sequences.

    Returns:
        The options with the least error.
    """
    held = sequence % 2 == 1
    if bool(held.all()) or not bool(held.any()):
        return options
    seen, unseen = (moments(full[rows], quantized[rows], block) for rows in (~held, held))
    units = unseen.deviation.pow(2) if options.scaled else torch.ones_like(unseen.mean_full)
    best, chosen = torch.inf, options
    for damping, smooth, shrink in itertools.product(DAMPINGS, SMOOTHS, SHRINKS):
        tried = dataclasses.replace(options, damping=damping, smooth=smooth, shrink=shrink)
        error = float((channel_errors(unseen, *solve(seen, tried)) / units).sum())
        if error < best:
            best, chosen = error, tried
    return chosen


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """Power of symmetric positive semidefinite matrices [..., g, g]; eigenvalues are clamped above zero."""
    values, vectors = torch.linalg.eigh(matrix)
    floor = values.amax(-1, keepdim=True).clamp(min=1e-30) * 1e-12
    return (vectors * values.clamp(min=floor).pow(exponent).unsqueeze(-2)) @ vectors.mT
