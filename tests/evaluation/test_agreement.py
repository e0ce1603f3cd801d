import math

import pytest
import torch

from starquant_fx.errors import InputError, StarQuantError
from starquant_fx.evaluation import agreement, mask_plan
from starquant_fx.evaluation.agreement import divergence
from tests.evaluation.toys import MASK, VOCABULARY, Toy, constant, contextual, tokens

FIRST = [0.4, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05]
SECOND = [0.1, 0.4, 0.2, 0.1, 0.1, 0.05, 0.05]


def test_a_model_agrees_with_itself() -> None:
    clean, plan = tokens(6, 20), mask_plan(6, 20)
    figures = agreement({"a": contextual(), "b": contextual()}, clean, plan, reference="a")
    for name in ("a", "b"):
        assert figures[name].top1.eq(1).all()
        assert figures[name].kl.eq(0).all()


def test_known_distributions_have_known_figures() -> None:
    clean = torch.tensor([[0] * 20, [1] * 20, [2] * 20])
    models = {"first": constant(FIRST), "second": constant(SECOND)}
    figures = agreement(models, clean, mask_plan(3, 20), reference="first")
    expected = sum(p * math.log(p / q) for p, q in zip(FIRST, SECOND, strict=True))
    assert figures["second"].kl.flatten().tolist() == pytest.approx([expected] * 9, rel=1e-5)
    assert figures["second"].top1.eq(0).all()
    assert figures["second"].drift.eq(0).all()  # equally sure of another token
    assert figures["first"].accuracy.tolist() == [[1, 0, 0]] * 3
    assert figures["second"].accuracy.tolist() == [[0, 1, 0]] * 3


def test_drift_is_the_change_of_the_largest_probability() -> None:
    sure, unsure = constant([0.7, *[0.05] * 6]), constant([0.1, 0.3, *[0.12] * 5])
    figures = agreement(
        {"sure": sure, "unsure": unsure}, tokens(3, 20), mask_plan(3, 20), reference="sure"
    )
    assert figures["unsure"].drift.flatten().tolist() == pytest.approx([0.4] * 9, abs=1e-6)
    assert torch.equal(figures["unsure"].signed_drift, -figures["unsure"].drift)
    assert figures["sure"].drift.eq(0).all()


def test_agreement_is_counted_on_masked_tokens_only() -> None:
    # Differs from the reference at even columns; unmasked tokens would be told apart too.
    base = constant(FIRST).function
    other = torch.tensor(SECOND).log()

    def even(ids: torch.Tensor) -> torch.Tensor:
        columns = torch.arange(ids.shape[1]) % 2 == 0
        return torch.where(columns[:, None], other, base(ids))

    clean, plan = tokens(4, 20), mask_plan(4, 20)
    figures = agreement({"base": constant(FIRST), "even": Toy(even)}, clean, plan, "base")
    masked = plan.at_ratio.double()
    expected = masked[..., 1::2].sum(-1) / masked.sum(-1)
    assert torch.allclose(figures["even"].top1, expected)


def test_batching_changes_nothing() -> None:
    clean, plan = tokens(7, 12), mask_plan(7, 12)
    models = {"a": contextual(), "b": contextual(noise=0.5)}
    one, all_at_once = (agreement(models, clean, plan, "a", batch=n)["b"] for n in (1, 7))
    assert 0 < float(one.top1.mean()) < 1
    assert torch.equal(one.top1, all_at_once.top1)
    assert torch.equal(one.accuracy, all_at_once.accuracy)
    assert torch.allclose(one.kl, all_at_once.kl, rtol=1e-6)


def test_divergence_allows_probabilities_of_zero() -> None:
    log_p = torch.tensor([[0.5, 0.5, 0.0]]).log()
    assert divergence(log_p, log_p).tolist() == [0]
    log_q = torch.tensor([[0.25, 0.5, 0.25]]).log()
    assert divergence(log_p, log_q).tolist() == pytest.approx([0.5 * math.log(2)])


def test_a_broken_model_is_named() -> None:
    models = {"full precision": contextual(), "rtn": constant([math.nan] * VOCABULARY)}
    with pytest.raises(StarQuantError, match="'rtn' give no finite loss"):
        agreement(models, tokens(2, 4), mask_plan(2, 4))


def test_models_that_cannot_be_compared_are_refused() -> None:
    clean, plan = tokens(2, 4), mask_plan(2, 4)
    with pytest.raises(InputError, match="did you mean 'full precision'"):
        agreement({"full precision": contextual()}, clean, plan, "full precison")
    larger = constant([0.1] * (VOCABULARY + 3))
    with pytest.raises(InputError, match="'a' and 'full precision' have different vocabularies"):
        agreement({"full precision": contextual(), "a": larger}, clean, plan)
    other = contextual()
    other.config.mask_token_id = MASK - 1
    with pytest.raises(InputError, match="different mask tokens"):
        agreement({"full precision": contextual(), "a": other}, torch.zeros_like(clean), plan)
