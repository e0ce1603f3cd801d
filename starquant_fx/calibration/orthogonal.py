"""Adam on the orthogonal group: moments live in the Lie algebra, steps are rotations.

The Euclidean gradient G of a factor Q gives the skew direction A = (Q^T G - G^T Q) / 2; Adam's moments are kept of A
and the step is Q <- Q exp(-lr A'), which stays orthogonal without a projection or a linear solve.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEWTON_STEPS = 5
"""The distance from orthogonality is squared by each; entries of 0.1 become rounding."""


class OrthogonalAdam:
    """Adam for orthogonal matrices [..., k, k].

    Args:
        factors: Leaf tensors that require gradients; updated in place.
        betas: Decay of the two moments.
        eps: Added to the root of the second moment.
    """

    def __init__(
        self, factors: list[Tensor], betas: tuple[float, float] = (0.9, 0.99), eps: float = 1e-8
    ) -> None:
        self.factors = factors
        self.betas = betas
        self.eps = eps
        self.first = [torch.zeros_like(f) for f in factors]
        self.second = [torch.zeros_like(f) for f in factors]
        self.steps = 0

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Rotates every factor by one step of size ``lr`` (radians an entry) and clears its gradient."""
        self.steps += 1
        slow, fast = 1 - self.betas[0] ** self.steps, 1 - self.betas[1] ** self.steps
        for q, m, v in zip(self.factors, self.first, self.second, strict=True):
            if q.grad is None:
                continue
            turn = q.mT @ q.grad
            skew = (turn - turn.mT) / 2
            m.lerp_(skew, 1 - self.betas[0])
            v.lerp_(skew * skew, 1 - self.betas[1])
            direction = (m / slow) / ((v / fast).sqrt() + self.eps)
            q.copy_(q @ torch.linalg.matrix_exp(-lr * direction))
            q.grad = None


@torch.no_grad()
def orthonormalize(q: Tensor) -> Tensor:
    """The orthogonal matrix nearest to an almost orthogonal one [..., k, k] (removes rounding drift).

    Newton's iteration for the polar factor, in float64: LAPACK's SVD may fail where all singular values are one.
    """
    x, identity = q.double(), torch.eye(q.shape[-1], dtype=torch.float64)
    for _ in range(NEWTON_STEPS):
        x = x @ (1.5 * identity - 0.5 * x.mT @ x)
    return x.to(q.dtype)
