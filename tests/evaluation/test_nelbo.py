import math
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from starquant_fx.errors import InputError, StarQuantError
from starquant_fx.evaluation import logits_at, mask_plan, nelbo
from tests.evaluation.toys import LIMIT, MASK, VOCABULARY, Toy, constant, contextual, tokens


def exact_bound(model: Toy, segment: Tensor) -> float:
    """The bound of one segment, nats per token, by enumerating every mask."""
    length, total = len(segment), 0.0
    for k in range(1, length + 1):
        subsets = list(combinations(range(length), k))
        for subset in subsets:
            ids = segment.clone()
            ids[list(subset)] = MASK
            log_probabilities = model.function(ids[None])[0].log_softmax(-1)
            losses = -sum(float(log_probabilities[i, segment[i]]) for i in subset)
            # P(k) = 1 / L, P(subset | k) = 1 / len(subsets), weight L / k, per token: / L.
            total += losses / (k * length * len(subsets))
    return total


def test_a_uniform_model_costs_log_v() -> None:
    clean = tokens(5, 8)
    values = nelbo(constant([1 / VOCABULARY] * VOCABULARY), clean, mask_plan(5, 8))
    assert values.tolist() == pytest.approx([math.log(VOCABULARY)] * 5, rel=1e-6)


def test_a_model_that_ignores_its_input_costs_the_cross_entropy() -> None:
    probabilities = [0.4, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05]
    clean = torch.arange(5)[:, None].repeat(1, 8)  # segment n holds token n only
    values = nelbo(constant(probabilities), clean, mask_plan(5, 8))
    assert values.tolist() == pytest.approx([-math.log(p) for p in probabilities[:5]], rel=1e-6)


def test_the_estimate_is_unbiased() -> None:
    model, segment = contextual(), torch.tensor([3, 0, 5, 1, 1])
    values = nelbo(model, segment.expand(4000, 5), mask_plan(4000, 5), batch=1000)
    error = float(values.std()) / math.sqrt(len(values))
    expected = exact_bound(model, segment)
    assert error < 0.02 * expected
    assert float(values.mean()) == pytest.approx(expected, abs=4 * error)


def test_more_draws_are_closer_to_the_exact_bound() -> None:
    model, clean = contextual(), tokens(40, 6)
    exact = torch.tensor([exact_bound(model, segment) for segment in clean])
    errors = [
        float((nelbo(model, clean, mask_plan(40, 6, draws=draws)) - exact).square().mean())
        for draws in (1, 6, 60)
    ]
    assert errors[0] > 2 * errors[1] > 8 * errors[2]


def test_batching_changes_nothing() -> None:
    clean, plan = tokens(7, 12), mask_plan(7, 12, draws=3)
    one, three, all_at_once = (nelbo(contextual(), clean, plan, batch=n) for n in (1, 3, 7))
    assert torch.equal(one, three)
    assert torch.equal(one, all_at_once)


def test_dream_reads_the_column_before() -> None:
    columns = torch.arange(5.0)
    ids = torch.zeros(2, 5, dtype=torch.long)
    at = torch.tensor([[True, False, False, True, False], [False, True, False, False, True]])

    def numbered(ids: Tensor) -> Tensor:
        row = torch.arange(len(ids))[:, None]
        return (10 * row + columns)[..., None].expand(-1, -1, VOCABULARY)

    def rows(model_type: str) -> list[float]:
        return logits_at(Toy(numbered, model_type), ids, at)[:, 0].tolist()

    assert rows("llada") == [0, 3, 11, 14]
    assert rows("Dream") == [0, 2, 10, 13]
    assert rows("bert") == [0, 3, 11, 14]


def test_a_shifted_model_costs_what_its_unshifted_twin_does() -> None:
    clean, plan = tokens(6, 10), mask_plan(6, 10)
    twin = contextual()
    shifted = Toy(lambda ids: twin.function(ids).roll(-1, 1), "Dream")
    # Column 0 uses its own raw row, which the roll has overwritten; so it stays unmasked here.
    plan.likelihood[..., 0] = False
    plan.likelihood[..., 1] = True
    assert torch.equal(nelbo(shifted, clean, plan), nelbo(twin, clean, plan))


def test_dropout_is_off_and_comes_back() -> None:
    model, clean, plan = contextual(), tokens(3, 8), mask_plan(3, 8)
    expected = nelbo(model, clean, plan)
    dropout = torch.nn.Dropout(0.9)
    dropped = Toy(lambda ids: dropout(model.function(ids)))
    dropped.add_module("dropout", dropout)
    assert torch.equal(nelbo(dropped, clean, plan), expected)
    assert dropout.training


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_refused_by_name(bad: float) -> None:
    with pytest.raises(StarQuantError, match="'rtn-w4a4' give no finite loss"):
        nelbo(constant([bad] * VOCABULARY), tokens(2, 4), mask_plan(2, 4), name="rtn-w4a4")


def with_config(**changes: Any) -> Toy:
    model = contextual()
    for key, value in changes.items():
        setattr(model.config, key, value)
    return model


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (with_config(mask_token_id=None), "'star' has no mask token"),
        (with_config(max_sequence_length=3), "longer than the maximum of 'star'"),
        (with_config(max_sequence_length=None, max_position_embeddings=3), "longer than"),
        (with_config(vocab_size=2), "out of range\n.*model 'star'"),
        (lambda ids: ids, "'star' has no mask token"),
    ],
)
def test_models_that_do_not_fit_are_refused_by_name(model: Any, what: str) -> None:
    with pytest.raises(InputError, match=what):
        nelbo(model, tokens(2, 4), mask_plan(2, 4), name="star")


@pytest.mark.parametrize(
    ("clean", "what"),
    [
        (torch.zeros(2, 0, dtype=torch.long), "the segments have a wrong form"),
        (torch.zeros(4, dtype=torch.long), "the segments have a wrong form"),
        (torch.zeros(2, 4), "the segments have a wrong form"),
        (torch.full((2, 4), MASK), "contain the mask token"),
        (torch.full((2, 4), -1), "out of range"),
        (tokens(3, 4), "drawn for other segments"),
        (tokens(2, LIMIT + 1), "drawn for other segments"),
    ],
)
def test_segments_that_do_not_fit_are_refused(clean: Tensor, what: str) -> None:
    with pytest.raises(InputError, match=what):
        nelbo(contextual(), clean, mask_plan(2, 4))


def test_a_model_without_logits_is_refused() -> None:
    with pytest.raises(InputError, match="did not return logits"):
        nelbo(Toy(lambda ids: ids), tokens(2, 4), mask_plan(2, 4))
