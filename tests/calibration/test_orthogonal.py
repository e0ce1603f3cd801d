from __future__ import annotations

import pytest
import torch
from torch import Tensor

from starquant_fx.basis import random_orthogonal
from starquant_fx.calibration.orthogonal import OrthogonalAdam, orthonormalize
from starquant_fx.devices import Draws


def departure(q: Tensor) -> float:
    return float((q.mT @ q - torch.eye(q.shape[-1])).abs().max())


@pytest.mark.parametrize("shape", [(6, 6), (3, 4, 4)])
def test_a_loss_decreases_and_the_matrix_stays_orthogonal(shape: tuple[int, ...]) -> None:
    goal = random_orthogonal(shape, Draws(0))
    signs = torch.linalg.det(goal).sign()[..., None, None]
    goal = torch.cat([goal[..., :-1], goal[..., -1:] * signs], -1)  # rotations reach no mirror
    q = torch.eye(shape[-1]).expand(shape).clone().requires_grad_()
    optimizer = OrthogonalAdam([q])
    losses = []
    for step in range(150):
        loss = (q - goal).pow(2).sum()
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step(0.1 * (1 - step / 150))
        assert departure(q.detach()) < 1e-4
    assert departure(q.detach()) < 1e-5
    assert losses[-1] < 0.01 * losses[0]
    assert q.grad is None


def test_factors_without_a_gradient_stay() -> None:
    q = torch.eye(3).requires_grad_()
    OrthogonalAdam([q]).step(0.1)
    assert torch.equal(q, torch.eye(3))


def test_orthonormalize_returns_the_nearest_orthogonal_matrix() -> None:
    draws = Draws(1)
    q = random_orthogonal((2, 5, 5), draws)
    torch.testing.assert_close(orthonormalize(q), q, atol=1e-5, rtol=0)
    drifted = q + 1e-2 * draws.normal(2, 5, 5)
    assert departure(drifted) > 1e-3
    repaired = orthonormalize(drifted)
    assert departure(repaired) < 1e-5
    assert (repaired - drifted).norm() <= (q - drifted).norm()
