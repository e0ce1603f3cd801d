import dataclasses
import itertools

import pytest
import torch

from starquant_fx.errors import InputError
from starquant_fx.evaluation import Interval, compare, mask_plan
from starquant_fx.models.dream import DreamConfig, DreamModel
from starquant_fx.models.llada import LladaConfig, LladaModel
from tests.evaluation.toys import constant, contextual, tokens


def width(interval: Interval) -> float:
    return interval.high - interval.low


def test_every_model_meets_the_same_masked_segments() -> None:
    clean = tokens(6, 10)
    models = {"full precision": contextual(), "a": contextual(noise=0.1), "b": contextual(7)}
    compare(models, clean, mask_plan(6, 10, draws=2), batch=4)
    calls = [torch.cat(model.calls) for model in models.values()]
    assert calls[0].shape == (6 * (2 + 3), 10)
    assert torch.equal(calls[0], calls[1])
    assert torch.equal(calls[0], calls[2])


def test_the_gap_is_paired_and_signed() -> None:
    clean, plan = tokens(40, 12), mask_plan(40, 12)
    models = {"full precision": contextual(), "near": contextual(noise=0.05)}
    result = compare(models, clean, plan)
    own, near = (result.nelbo(name) for name in models)
    gap = result.gap("near")
    assert gap.mean == pytest.approx(near.mean - own.mean, abs=1e-9)
    assert width(gap) < 0.2 * min(width(own), width(near))
    assert result.gap("full precision") == Interval(0.0, 0.0, 0.0)
    back = result.gap("full precision", to="near")
    assert back.mean == pytest.approx(-gap.mean)


def test_a_model_is_farther_off_the_more_it_is_disturbed() -> None:
    clean = tokens(60, 20)
    noises = (0.2, 0.6, 1.8)
    models = {"full precision": contextual(), **{str(n): contextual(noise=n) for n in noises}}
    result = compare(models, clean, mask_plan(60, 20))
    for near, far in itertools.pairwise(map(str, noises)):
        assert all(
            a.high < b.low
            for a, b in zip(result.by_ratio(near, "kl"), result.by_ratio(far, "kl"), strict=True)
        )
        assert all(
            a.low > b.high
            for a, b in zip(
                result.by_ratio(near, "top1"), result.by_ratio(far, "top1"), strict=True
            )
        )


def llada(seed: int) -> LladaModel:
    torch.manual_seed(seed)
    return LladaModel(
        LladaConfig(
            d_model=32,
            n_heads=2,
            n_layers=2,
            mlp_hidden_size=48,
            vocab_size=40,
            mask_token_id=39,
            max_sequence_length=24,
            eos_token_id=38,
        )
    )


def dream(seed: int) -> DreamModel:
    torch.manual_seed(seed)
    return DreamModel(
        DreamConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=40,
            mask_token_id=39,
            max_position_embeddings=24,
        )
    )


@pytest.mark.parametrize("make", [llada, dream])
def test_real_architectures_go_through(make: type) -> None:
    clean = torch.randint(38, (5, 24), generator=torch.Generator().manual_seed(0))
    models = {"full precision": make(0), "twin": make(0), "other": make(1)}
    result = compare(models, clean, mask_plan(5, 24), batch=2)
    assert result.gap("twin") == Interval(0.0, 0.0, 0.0)
    assert all(i == Interval(1.0, 1.0, 1.0) for i in result.by_ratio("twin", "top1"))
    assert all(i == Interval(0.0, 0.0, 0.0) for i in result.by_ratio("twin", "kl"))
    assert all(i.low > 0 for i in result.by_ratio("other", "kl"))
    assert all(m.seconds > 0 for m in result.measurements.values())
    assert all(p.grad is None for p in models["other"].parameters())


def test_a_random_model_is_as_accurate_as_chance() -> None:
    clean = tokens(50, 20)
    models = {"full precision": constant([0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])}
    result = compare(models, clean, mask_plan(50, 20))
    assert all(i.low < 1 / 6 < i.high for i in result.by_ratio("full precision", "accuracy"))


def test_what_cannot_be_compared_is_refused_before_a_model_runs() -> None:
    model = contextual()
    clean, plan = tokens(4, 8), mask_plan(4, 8)
    with pytest.raises(InputError, match="there is no model 'full precision'"):
        compare({"star": model}, clean, plan)
    with pytest.raises(InputError, match="'b' has no mask token"):
        compare({"full precision": model, "b": lambda ids: ids}, clean, plan)
    wrong = dataclasses.replace(plan, at_ratio=plan.at_ratio[:, :2])
    with pytest.raises(InputError, match="drawn for other segments"):
        compare({"full precision": model}, clean, wrong)
    assert model.calls == []
