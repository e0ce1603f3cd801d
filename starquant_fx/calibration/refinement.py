"""Refines bases, clip factors and bias rows of a span together, by the gradient of an objective."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, fx

from starquant_fx.calibration.basis_fit import CLIP_SPEED, LAST_SPEED
from starquant_fx.calibration.fit_cache import Fit
from starquant_fx.calibration.objectives import Objective
from starquant_fx.calibration.orthogonal import OrthogonalAdam, orthonormalize
from starquant_fx.calibration.spans import Span
from starquant_fx.operators import op

LARGEST_CLIP = 0.999
"""Clip factors are learned as sigmoids, which do not reach 1."""


@dataclasses.dataclass(frozen=True)
class Tuned:
    """The nodes that read what is refined.

    Attributes:
        rotations: Orthogonal factors.
        clips: Clip factors in (0, 1].
        biases: Bias rows of the states; they move in units of their own root mean square.
    """

    rotations: tuple[fx.Node, ...]
    clips: tuple[fx.Node, ...]
    biases: tuple[fx.Node, ...]

    @classmethod
    def of(cls, span: Span) -> Tuned:
        """Everything that can be refined in a span."""
        rotations, clips, biases = [], [], []
        for node in span.nodes:
            if node.target == op("rotate") and node.args[2] != "hadamard":
                rotations += list(node.args[1])  # type: ignore[arg-type]
            elif node.target in (op("quantize_activation"), op("quantize_weight")):
                clips += [node.args[-1]]
            elif node.target == op("add_state_bias"):
                biases += [node.args[2]]
        found = [
            [n for n in nodes if isinstance(n, fx.Node)] for nodes in (rotations, clips, biases)
        ]
        return cls(*(tuple(dict.fromkeys(nodes)) for nodes in found))

    def nodes(self) -> tuple[fx.Node, ...]:
        """All of them."""
        return (*self.rotations, *self.clips, *self.biases)


def refine(
    tuned: Tuned, start: dict[fx.Node, Tensor], objective: Objective, steps: int, lr: float
) -> Fit:
    """Lowers an objective by Adam, in the Lie algebra for rotations, with a cosine schedule.

    Args:
        tuned: What is refined.
        start: Their tensors.
        objective: The loss.
        steps: Steps.
        lr: Learning rate: radians an entry of a rotation; clip factors and bias rows are ten times as fast, in units
            of their own.

    Returns:
        The refined tensors by qualified name, never worse than the start by the objective's score, and the scores
        ``before`` and ``after``.
    """
    rotations = {n: start[n].clone().requires_grad_() for n in tuned.rotations}
    clips = {n: start[n].clamp(max=LARGEST_CLIP).logit().requires_grad_() for n in tuned.clips}
    moves = {n: torch.zeros_like(start[n]).requires_grad_() for n in tuned.biases}
    units = {n: start[n].pow(2).mean().sqrt() for n in tuned.biases}

    def tensors() -> dict[fx.Node, Tensor]:
        found = {**rotations, **{n: raw.sigmoid() for n, raw in clips.items()}}
        return found | {n: start[n] + units[n] * move for n, move in moves.items()}

    turn = OrthogonalAdam(list(rotations.values()))
    free = [*clips.values(), *moves.values()]
    adam = torch.optim.Adam(free, lr=lr) if free else None
    steps = steps if tuned.nodes() else 0
    for step in range(steps):
        objective.loss(tensors(), step).backward()
        speed = LAST_SPEED + (1 - LAST_SPEED) * 0.5 * (1 + math.cos(math.pi * step / steps))
        turn.step(lr * speed)
        if adam is not None:
            for group in adam.param_groups:
                group["lr"] = lr * CLIP_SPEED * speed
            adam.step()
            adam.zero_grad()
    end = {n: value.detach() for n, value in tensors().items()}
    end |= {n: orthonormalize(end[n]) for n in rotations}
    before = objective.score(start)
    after = objective.score(end) if steps else before
    best = end if after < before else start
    figures = {"before": before, "after": min(before, after)}
    return {str(n.target): value for n, value in best.items()}, figures
