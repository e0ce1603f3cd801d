"""Fits the basis of one site: minimise the error of its outputs over cached activations (paper, eq. 14-15)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from starquant_fx.basis import BasisShape
from starquant_fx.calibration.fake_quantize import fake_quantize_activation, fake_quantize_weight
from starquant_fx.calibration.fit_cache import Fit
from starquant_fx.calibration.orthogonal import OrthogonalAdam, orthonormalize
from starquant_fx.devices import Draws
from starquant_fx.hadamard import hadamard
from starquant_fx.kernels import reference
from starquant_fx.recipe import FULL_PRECISION, SiteRecipe

CLIP_START = 4.0
"""Clip factors are the sigmoid of this (0.982) at the start, as in FlatQuant."""
CLIP_SPEED = 10.0
"""Clip factors learn this much faster than the basis, as in FlatQuant."""
LAST_SPEED = 1e-3
"""The cosine schedule ends at this share of the learning rate, as in FlatQuant."""

PIECE = 1 << 22
"""Entries of a weight that are transformed, rounded and multiplied at once: 16 MB in float32."""


@dataclasses.dataclass(frozen=True)
class FitOptions:
    """How a basis is fitted.

    Attributes:
        epochs: Passes over the tokens.
        batch: Tokens a step.
        lr: Learning rate, radians an entry.
        seed: Seed of the order of the tokens.
    """

    epochs: int
    batch: int
    lr: float
    seed: int


@dataclasses.dataclass
class SiteProblem:
    """One site to fit.

    Attributes:
        tokens: [N, d] float32 inputs, centred if the site is.
        label: [N] states.
        weight: [n, d] float32: the site's weights one below the other.
        shape: Of the basis.
        gates: [S, d] float32 (all ones without gates).
        options: Bits.
        clip: Learn clip factors.
    """

    tokens: Tensor
    label: Tensor
    weight: Tensor
    shape: BasisShape
    gates: Tensor
    options: SiteRecipe
    clip: bool


@dataclasses.dataclass
class FittedSite:
    """Result of a fit.

    Attributes:
        factors: Of the basis, orthogonal.
        clip: [2] activation clip factors.
        clip_weight: [n] weight clip factors.
        before: Relative output error at the start.
        after: Relative output error at the end.
        leakage: Relative output error from the gates alone (no quantizers).
    """

    factors: list[Tensor]
    clip: Tensor
    clip_weight: Tensor
    before: float
    after: float
    leakage: float

    def parts(self) -> Fit:
        """Its tensors and figures by name."""
        tensors = {f"factor_{i}": factor for i, factor in enumerate(self.factors)}
        tensors |= {"clip": self.clip, "clip_weight": self.clip_weight}
        return tensors, {name: getattr(self, name) for name in ("before", "after", "leakage")}

    @classmethod
    def of(cls, fit: Fit) -> FittedSite:
        """Undoes ``parts``."""
        tensors, figures = fit
        count = sum(name.startswith("factor_") for name in tensors)
        factors = [tensors[f"factor_{i}"] for i in range(count)]
        return cls(factors, tensors["clip"], tensors["clip_weight"], **figures)


def fit_site(problem: SiteProblem, factors: list[Tensor], options: FitOptions) -> FittedSite:
    """Fits basis and clip factors of one site; the model's weights stay as they are.

    Args:
        problem: The site.
        factors: Where the basis starts.
        options: Schedule.

    Returns:
        The fitted site; never worse than the start on the calibration tokens.
    """
    factors = [
        f.clone().requires_grad_(f.dim() > 1 and problem.shape.structure != "hadamard")
        for f in factors
    ]
    raw_clip = torch.full((2,), CLIP_START, requires_grad=problem.clip)
    raw_weight = torch.full((problem.weight.shape[0],), CLIP_START, requires_grad=problem.clip)
    start = _Candidate(factors, *_clips(raw_clip, raw_weight, problem.clip)).frozen()
    before = relative_error(problem, start)

    rotations = OrthogonalAdam([f for f in factors if f.requires_grad])
    clips = torch.optim.AdamW([raw_clip, raw_weight], lr=options.lr * CLIP_SPEED, weight_decay=0.0)
    draws = Draws(options.seed)
    tokens = problem.tokens.shape[0]
    per_epoch = max(1, tokens // options.batch)
    steps = options.epochs * per_epoch
    target = problem.tokens @ problem.weight.T
    power = target.pow(2).mean().clamp(min=torch.finfo(torch.float32).tiny)
    order = torch.arange(tokens)
    for step in range(steps if rotations.factors or problem.clip else 0):
        if step % per_epoch == 0:
            order = draws.permutation(tokens)
        rows = order[(step % per_epoch) * options.batch :][: options.batch]
        candidate = _Candidate(factors, *_clips(raw_clip, raw_weight, problem.clip))
        _add_gradients(problem, candidate, rows, target, power)
        speed = LAST_SPEED + (1 - LAST_SPEED) * 0.5 * (1 + math.cos(math.pi * step / steps))
        rotations.step(options.lr * speed)
        if problem.clip:
            for group in clips.param_groups:
                group["lr"] = options.lr * CLIP_SPEED * speed
            clips.step()
            clips.zero_grad()
    with torch.no_grad():
        for f in factors:
            if f.requires_grad:
                f.copy_(orthonormalize(f))
    end = _Candidate(factors, *_clips(raw_clip, raw_weight, problem.clip)).frozen()
    after = relative_error(problem, end)
    best = end if after <= before else start
    return FittedSite(
        best.factors,
        best.clip,
        best.clip_weight,
        before,
        min(before, after),
        leakage(problem, best.factors),
    )


@dataclasses.dataclass
class _Candidate:
    factors: list[Tensor]
    clip: Tensor
    clip_weight: Tensor

    def frozen(self) -> _Candidate:
        return _Candidate(
            [f.detach().clone() for f in self.factors],
            self.clip.detach().clone(),
            self.clip_weight.detach().clone(),
        )


def _clips(raw: Tensor, raw_weight: Tensor, learn: bool) -> tuple[Tensor, Tensor]:
    return (
        (raw.sigmoid(), raw_weight.sigmoid())
        if learn
        else (torch.ones_like(raw), torch.ones_like(raw_weight))
    )


def _pieces(problem: SiteProblem) -> Iterator[slice]:
    """Rows of the weight that are worked on at once: a weight takes memory many times over on its way to a gradient."""
    outputs, features = problem.weight.shape
    count = max(1, PIECE // features)
    return (slice(start, min(start + count, outputs)) for start in range(0, outputs, count))


def _inputs(problem: SiteProblem, candidate: _Candidate, rows: Tensor) -> Tensor:
    """What the quantized product reads [rows, d], differentiable in the candidate."""
    options, structure = problem.options, problem.shape.structure
    x = reference.rotate(problem.tokens[rows], candidate.factors, structure)
    x = x * problem.gates[problem.label[rows]]
    if options.activation_bits == FULL_PRECISION:
        return x
    return fake_quantize_activation(x, options.activation_bits, options.symmetric, candidate.clip)


def _weights(problem: SiteProblem, candidate: _Candidate, piece: slice) -> Tensor:
    """Some rows of the quantized weight, differentiable in the candidate."""
    w = reference.rotate(problem.weight[piece], candidate.factors, problem.shape.structure)
    bits = problem.options.weight_bits
    if bits == FULL_PRECISION:
        return w
    return fake_quantize_weight(w, bits, candidate.clip_weight[piece])


def _add_gradients(
    problem: SiteProblem, candidate: _Candidate, rows: Tensor, target: Tensor, power: Tensor
) -> None:
    """Adds the gradients of the relative error of some tokens' outputs, one piece of the weight after the other."""
    x = _inputs(problem, candidate, rows)
    ends = [x, candidate.clip_weight]
    read, clip_weight = (end.detach().requires_grad_(end.requires_grad) for end in ends)
    detached = _Candidate(candidate.factors, candidate.clip, clip_weight)
    count = len(problem.weight)
    for piece in _pieces(problem):
        output = read @ _weights(problem, detached, piece).T
        loss = mse_loss(output, target[rows, piece]) / power
        if output.requires_grad:
            (loss * (output.shape[1] / count)).backward()
    for end, leaf in zip(ends, (read, clip_weight), strict=True):
        if leaf.grad is not None:
            end.backward(leaf.grad)


@torch.no_grad()
def relative_error(problem: SiteProblem, candidate: _Candidate, chunk: int = 4096) -> float:
    """||x W^T - y||^2 / ||x W^T||^2 over all calibration tokens."""
    error = power = 0.0
    for rows in torch.arange(problem.tokens.shape[0]).split(chunk):
        x = _inputs(problem, candidate, rows)
        for piece in _pieces(problem):
            target = problem.tokens[rows] @ problem.weight[piece].T
            power += float(target.pow(2).sum())
            error += float((x @ _weights(problem, candidate, piece).T - target).pow(2).sum())
    return error / max(power, 1e-30)


@torch.no_grad()
def leakage(problem: SiteProblem, factors: list[Tensor]) -> float:
    """||x Q (I - G_z) W~^T||^2 / ||x W^T||^2: what the gates lose, whatever the bits (gates on, quantizers off)."""
    if bool((problem.gates == 1).all()):
        return 0.0
    structure = problem.shape.structure
    lost = reference.rotate(problem.tokens, factors, structure) * (1 - problem.gates[problem.label])
    error = power = 0.0
    for piece in _pieces(problem):
        weight = problem.weight[piece]
        power += float((problem.tokens @ weight.T).pow(2).sum())
        error += float((lost @ reference.rotate(weight, factors, structure).T).pow(2).sum())
    return error / max(power, 1e-30)


@torch.no_grad()
def aim_gates(problem: SiteProblem, factors: list[Tensor]) -> list[Tensor]:
    """Turns the factor that carries the gates so that each state's own coordinates hold little of the other state.

    The masked coordinates start as the directions with the least energy in unmasked tokens, the unmasked ones as those
    with the least energy in masked tokens among the rest; the shared coordinates are a Hadamard mixture of the rest.
    Only the dense and Kronecker structures can be aimed; others are returned as they are.

    Args:
        problem: The site.
        factors: The basis so far; the other Kronecker factor is kept.

    Returns:
        The factors, the first one replaced.
    """
    shape = problem.shape
    if shape.rank == 0 or shape.structure not in ("dense", "kronecker"):
        return factors
    count = shape.rank // shape.right
    folded = problem.tokens.unflatten(-1, (shape.left, shape.right))
    odd = (problem.label % 2).bool()
    if not bool(odd.any()) or bool(odd.all()):
        return factors
    moments = [
        torch.einsum("nar,nbr->ab", folded[rows], folded[rows]).double() for rows in (~odd, odd)
    ]
    unmasked, masked = moments
    masked_own = torch.linalg.eigh(unmasked).eigenvectors[:, :count]
    rest = _complement(masked_own)
    unmasked_own = rest @ torch.linalg.eigh(rest.T @ masked @ rest).eigenvectors[:, :count]
    shared = _complement(torch.cat([masked_own, unmasked_own], 1))
    total = shared.T @ (unmasked + masked) @ shared
    shared = shared @ torch.linalg.eigh(total).eigenvectors @ hadamard(shared.shape[1]).double()
    return [torch.cat([shared, masked_own, unmasked_own], 1).float(), *factors[1:]]


def _complement(columns: Tensor) -> Tensor:
    """Orthonormal columns that span what ``columns`` [k, c] does not: [k, k - c]."""
    q, _ = torch.linalg.qr(columns, mode="complete")
    return q[:, columns.shape[1] :]
