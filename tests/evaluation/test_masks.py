from typing import Any

import pytest
import torch

from starquant_fx.errors import InputError
from starquant_fx.evaluation import mask_plan
from starquant_fx.evaluation.masks import batch_count, masked_batches
from tests.evaluation.toys import MASK, tokens


def test_the_seed_alone_decides_the_masks() -> None:
    first, again, other = (mask_plan(5, 16, seed, draws=2) for seed in (3, 3, 4))
    assert torch.equal(first.likelihood, again.likelihood)
    assert torch.equal(first.at_ratio, again.at_ratio)
    assert not torch.equal(first.likelihood, other.likelihood)
    assert not torch.equal(first.at_ratio, other.at_ratio)


def test_every_segment_has_the_same_share_masked_at_a_ratio() -> None:
    plan = mask_plan(9, 20, ratios=(0.04, 0.15, 0.5, 1.0))
    assert plan.at_ratio.sum(-1).tolist() == [[1] * 9, [3] * 9, [10] * 9, [20] * 9]


@pytest.mark.parametrize("seed", range(5))
def test_mask_counts_are_stratified_over_segments_and_draws(seed: int) -> None:
    # As many masks as tokens: each count from 1 to L once.
    counts = mask_plan(4, 12, seed, draws=3).likelihood.sum(-1)
    assert sorted(counts.flatten().tolist()) == list(range(1, 13))
    # As many draws as tokens: each segment by itself meets each count once.
    alone = mask_plan(4, 12, seed, draws=12).likelihood.sum(-1)
    assert alone.sort(0).values.tolist() == [[k] * 4 for k in range(1, 13)]


def test_each_draw_of_one_segment_is_uniform_over_counts_and_positions() -> None:
    plans = [mask_plan(1, 4, seed) for seed in range(2000)]
    masks = torch.cat([plan.likelihood[0] for plan in plans])
    shares = torch.bincount(masks.sum(1), minlength=5)[1:] / len(masks)
    assert shares == pytest.approx(0.25, abs=0.05)
    of_two = masks[masks.sum(1) == 2].double()  # six subsets of two, each position in three of them
    assert of_two.mean(0) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"count": 0}, "count is not usable"),
        ({"length": 0}, "length is not usable"),
        ({"draws": 0}, "draws is not usable"),
        ({"ratios": (0.0,)}, "a mask ratio is out of range"),
        ({"ratios": (1.5,)}, "a mask ratio is out of range"),
        ({"ratios": (float("nan"),)}, "a mask ratio is out of range"),
        ({"ratios": (0.5, 0.1)}, "no token would be masked at a mask ratio"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        mask_plan(**{"count": 2, "length": 4, **arguments})


def test_batches_cover_all_segments_under_all_masks() -> None:
    clean, plan = tokens(5, 8), mask_plan(5, 8, draws=2)
    batches = list(masked_batches(clean, plan.likelihood, MASK, batch=2))
    assert len(batches) == batch_count(plan.likelihood, 2) == 6
    assert torch.equal(torch.cat([b.masked for b in batches]), plan.likelihood.flatten(0, 1))
    for batch in batches:
        restored = batch.ids.masked_scatter(batch.ids == MASK, batch.targets)
        assert torch.equal(restored, clean[batch.rows])


def test_means_are_taken_over_the_masked_tokens_of_each_segment() -> None:
    masks = torch.tensor([[[True, False, True], [False, True, False]]])
    (batch,) = masked_batches(tokens(2, 3), masks, MASK, batch=2)
    assert batch.means(torch.tensor([1.0, 2.0, 5.0])).tolist() == [1.5, 5.0]
