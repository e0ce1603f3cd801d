from __future__ import annotations

import pytest
import torch
from torch import Tensor

from starquant_fx.calibration.states import own_generations, rollout
from tests.small_models import MASK, model

TEXTS = torch.randint(0, 8, (20, 30), generator=torch.Generator().manual_seed(0))
MASKED = 9


class Table:
    """Proposes token 8 everywhere, most confidently on the left; never asked anything else."""

    def __init__(self) -> None:
        self.calls: list[Tensor] = []

    def __call__(self, ids: Tensor) -> Tensor:
        self.calls.append(ids.clone())
        logits = torch.zeros(*ids.shape, 10)
        logits[..., 8] = 10 - torch.arange(ids.shape[1]) * 0.1
        logits[..., MASKED] = 100  # a denoiser may propose the mask token; it must not be taken
        return logits


def ratios(ids: Tensor) -> Tensor:
    return (ids == MASKED).float().mean(1)


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_mask_ratios_cover_zero_to_one_evenly(steps: int) -> None:
    states = rollout(Table(), TEXTS, MASKED, steps=steps, seed=0, shifted=False)
    wanted = (torch.arange(20) + 0.5) / 20
    torch.testing.assert_close(ratios(states).sort().values, wanted, atol=0.5 / 30 + 1e-6, rtol=0)


def test_without_steps_texts_are_only_masked() -> None:
    table = Table()
    states = rollout(table, TEXTS, MASKED, steps=0, seed=0, shifted=False)
    assert table.calls == []
    assert bool(((states == TEXTS) | (states == MASKED)).all())


def test_the_model_denoises_from_a_higher_ratio_down_to_the_recorded_one() -> None:
    table = Table()
    states = rollout(table, TEXTS, MASKED, steps=4, seed=0, shifted=False)
    seen = [torch.cat(table.calls[i : i + 2]) for i in range(0, 8, 2)]  # chunks of 16 and 4
    for earlier, later in zip(seen, [*seen[1:], states], strict=True):
        assert bool((ratios(earlier) >= ratios(later)).all())
        assert bool((later == earlier)[earlier != MASKED].all())
        filled = (earlier == MASKED) & (later != MASKED)
        assert bool((later[filled] == 8).all())
    own = (states == 8).any(1)
    assert 10 < int(own.sum()) <= 20
    for row in states[own]:  # what was filled in lies left of every mask that remained
        if bool((row == MASKED).any()) and bool((row == 8).any()):
            assert int((row == 8).nonzero().max()) < int((row == MASKED).nonzero().max())


def test_the_most_confident_masks_are_filled_first() -> None:
    table = Table()
    states = rollout(table, TEXTS, MASKED, steps=1, seed=3, shifted=False)
    (before,) = [torch.cat(table.calls)]
    for start, end in zip(before, states, strict=True):
        masks = (start == MASKED).nonzero().flatten()
        left = (end == MASKED).nonzero().flatten()
        assert torch.equal(masks[len(masks) - len(left) :], left)


def test_a_state_depends_on_the_seed_and_nothing_else() -> None:
    first, again, other = (
        rollout(Table(), TEXTS, MASKED, steps=2, seed=seed, shifted=False) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert bool((TEXTS < 8).all())  # the texts are not written into


def test_shifted_logits_speak_of_the_next_column() -> None:
    def denoiser(ids: Tensor) -> Tensor:
        columns = torch.arange(ids.shape[1]) % 8
        return torch.nn.functional.one_hot(columns, 10).expand(*ids.shape, 10) * 50.0

    texts = torch.full((4, 8), 8)
    plain = rollout(denoiser, texts, MASKED, steps=2, seed=0, shifted=False)
    shifted = rollout(denoiser, texts, MASKED, steps=2, seed=0, shifted=True)
    columns = torch.arange(8).expand(4, 8)
    filled = (plain != MASKED) & (plain != 8)
    assert bool(filled.any())
    assert torch.equal(plain[filled], columns[filled])
    filled = (shifted != MASKED) & (shifted != 8)
    assert torch.equal(shifted[filled], (columns[filled] - 1).clamp(min=0))


@pytest.mark.parametrize("length", [1, 5, 16, 40])
def test_own_generations_hold_no_masks(length: int) -> None:
    texts = own_generations(Table(), 18, length, MASKED, seed=0, shifted=False)
    assert texts.shape == (18, length)
    assert not bool((texts == MASKED).any())
    assert texts.dtype == torch.int64


def test_own_generations_are_drawn_from_the_model() -> None:
    drawn = own_generations(Table(), 18, 40, MASKED, seed=0, shifted=False)
    assert float((drawn == 8).float().mean()) > 0.95  # temperature 1: not all of them
    texts = [
        own_generations(model("odd"), 4, 12, MASK["odd"], seed=s, shifted=False) for s in (0, 0, 1)
    ]
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])
    assert int(texts[0].max()) < 61


@pytest.mark.parametrize("shares", [(0.3, 0.2, 0.2, 0.3), (1.0, 0.0), (0.0, 0.0, 2.0)])
def test_strata_give_each_bucket_of_mask_ratios_its_share(shares: tuple[float, ...]) -> None:
    texts = torch.randint(0, 9, (40, 100))
    ids = rollout(None, texts, 9, steps=0, seed=1, shifted=False, strata=shares)  # type: ignore[arg-type]
    ratio = (ids == 9).float().mean(1)
    bucket = (ratio * len(shares) - 1e-3).long().clamp(0, len(shares) - 1)
    counts = torch.bincount(bucket, minlength=len(shares)) / 40
    assert counts.tolist() == pytest.approx([s / sum(shares) for s in shares], abs=0.03)


@pytest.mark.parametrize(
    ("shares", "rows"), [((0.5, 0.0, 0.5), [10, 10]), ((0.25, 0.5, 0.25), [15, 5]), ((), [20, 20])]
)
def test_step_strata_say_how_many_sequences_are_rolled_out_how_far(
    shares: tuple[float, ...], rows: list[int]
) -> None:
    table = Table()
    texts = TEXTS[:1].expand(20, -1)
    states = rollout(table, texts, MASKED, steps=2, seed=1, shifted=False, step_strata=shares)
    calls = [len(ids) for ids in table.calls]
    assert sum(calls) == sum(rows)
    ratios = (states == MASKED).float().mean(1).sort().values
    assert torch.allclose(ratios, (torch.arange(20) + 0.5) / 20, atol=0.5 / texts.shape[1] + 1e-6)
