"""The masked-diffusion objective of the training, its estimates and its schedule."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from tiny_training.objective import (
    SMALLEST_RATIO,
    add_noise,
    masked_accuracy,
    masked_cross_entropy,
    nelbo,
    pad_to_multiple,
    read_positions,
    stratified_ratios,
)
from tiny_training.optimizer import Budget


def test_ratios_are_stratified_and_uniform() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([stratified_ratios(4, generator) for _ in range(4000)])
    assert draws.min() > 0
    assert draws.max() <= 1
    strata = (draws.sort(dim=1).values * 4).ceil()
    assert torch.equal(strata, torch.arange(1.0, 5.0).expand_as(strata))
    # Each column by itself is uniform: mean 1/2 and variance 1/12, within 4 standard errors.
    assert (draws.mean(0) - 0.5).abs().max() < 4 * math.sqrt(1 / 12 / 4000)
    assert (draws.var(0) - 1 / 12).abs().max() < 0.006


def test_objective_equals_the_sum_by_hand() -> None:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 11, (3, 6), generator=generator)
    noised = add_noise(ids, torch.tensor([0.2, 0.6, 1.0]), 11, generator)
    hidden, head = (
        torch.randn(3, 6, 5, generator=generator),
        torch.randn(12, 5, generator=generator),
    )
    for shifted in (False, True):
        positions, rows = read_positions(noised.masked, shifted)
        targets, weights = ids.flatten()[positions], noised.weights[positions // 6]
        padded = (pad_to_multiple(values, 7) for values in (rows, targets, weights))
        got = masked_cross_entropy(hidden.flatten(0, 1), head, *padded)
        want = 0.0
        for b, j in itertools.product(range(3), range(6)):
            if noised.masked[b, j]:
                assert noised.ids[b, j] == 11
                row = max(j - 1, 0) if shifted else j
                logits = head @ hidden[b, row]
                t = (1 - SMALLEST_RATIO) * [0.2, 0.6, 1.0][b] + SMALLEST_RATIO
                want += float(-(logits.log_softmax(0)[ids[b, j]]) / t)
            else:
                assert noised.ids[b, j] == ids[b, j]
        assert float(got) == pytest.approx(want, rel=1e-5)


class Constant(nn.Module):
    """Predicts the same distribution everywhere."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.head = nn.Linear(1, len(logits), bias=False)
        self.head.weight.data = logits[:, None]

    def get_output_embeddings(self) -> nn.Linear:
        return self.head

    def forward_hidden(self, ids: Tensor) -> tuple[Tensor]:
        return (torch.ones(*ids.shape, 1),)


def test_nelbo_and_accuracy_of_a_known_predictor() -> None:
    # For a predictor that ignores its input the NELBO is the cross-entropy itself, at any masks.
    probabilities = torch.tensor([0.5, 0.3, 0.2, 1e-9])
    model = Constant(probabilities.log())
    generator = torch.Generator().manual_seed(0)
    windows = torch.multinomial(probabilities[:3], 512 * 64, True, generator=generator)
    windows = windows.reshape(512, 64)
    counts = torch.bincount(windows.flatten(), minlength=3) / windows.numel()
    entropy = float(-(counts * probabilities[:3].log()).sum())
    estimate = nelbo(model, windows, mask_id=3, shifted=False)
    assert estimate == pytest.approx(entropy, rel=0.02)
    assert estimate == nelbo(model, windows, mask_id=3, shifted=False, batch=512)
    accuracy = masked_accuracy(model, windows, 3, shifted=True, ratio=0.5)
    assert accuracy == pytest.approx(float(counts[0]), abs=0.02)


def test_budget_warms_up_holds_and_decays() -> None:
    budget = Budget(target_tokens=100, decay_from=75, seconds=1000.0, warmup_steps=10)
    assert budget.factor(0, 0, 0) == pytest.approx(0.1)
    assert budget.factor(50, 75, 750) == 1.0
    assert budget.factor(50, 80, 0) == pytest.approx(0.8)
    assert budget.factor(50, 0, 900) == pytest.approx(0.4)
    assert budget.factor(50, 100, 0) == budget.factor(50, 0, 1000) == 0.0
