"""Which tokens of an answer are masked, and what each mask counts."""

from __future__ import annotations

import math

import pytest
import torch

from starquant_fx.integrations.harness.answer_masks import answer_masks


@pytest.mark.parametrize(("length", "draws"), [(9, 24), (9, 1), (12, 500), (40, 128)])
def test_weights_of_drawn_masks(length: int, draws: int) -> None:
    masks = answer_masks(length, draws, "x", with_full=True)
    sizes = masks.masked.sum(1)
    assert len(torch.unique(masks.masked, dim=0)) == len(masks.masked)
    assert int(sizes.min()) >= 1
    assert bool(masks.masked.all(1).any())
    # Each draw of size k counts L / k / draws, so weight · k / L adds up to one.
    assert float((masks.weights * sizes / length).sum()) == pytest.approx(1)
    # The sizes of the draws are spread evenly over 1..L.
    share = torch.zeros(length + 1, dtype=torch.float64)
    share.index_add_(0, sizes, masks.weights * sizes / length)
    assert (
        float((share[1:].cumsum(0) - torch.arange(1, length + 1) / length).abs().max()) <= 1 / draws
    )


@pytest.mark.parametrize("length", [1, 2, 5])
def test_weights_of_all_masks(length: int) -> None:
    masks = answer_masks(length, 2**length - 1, "x")
    assert len(masks.masked) == 2**length - 1
    sizes = masks.masked.sum(1).tolist()
    expected = [length / k / length / math.comb(length, k) for k in sizes]
    assert masks.weights.tolist() == pytest.approx(expected)


def test_masks_depend_on_seed_and_request_alone() -> None:
    first = answer_masks(30, 16, "a", seed=1)
    assert torch.equal(first.masked, answer_masks(30, 16, "a", seed=1).masked)
    assert not torch.equal(first.masked, answer_masks(30, 16, "a", seed=2).masked)
    assert not torch.equal(first.masked, answer_masks(30, 16, "b", seed=1).masked)
