import itertools
import math

import pytest
import torch

import starquant_fx
from starquant_fx.errors import InputError, StarQuantError
from starquant_fx.evaluation import (
    compare,
    excerpt,
    gate,
    gate_sheet,
    mask_plan,
    nelbo,
    rank_correlation,
    rank_sheet,
    segments,
)
from tests.evaluation.toys import VOCABULARY, constant, contextual, tokens

FULL = "full precision"
FIRST = [0.4, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05]
SECOND = [0.1, 0.4, 0.2, 0.1, 0.1, 0.05, 0.05]


def test_the_score_is_the_divergence_of_known_distributions() -> None:
    models = {FULL: constant(FIRST), "twin": constant(FIRST), "other": constant(SECOND)}
    found = gate(models, tokens(4, 10), mask_plan(4, 10, draws=3), batch=3)
    expected = sum(p * math.log(p / q) for p, q in zip(FIRST, SECOND, strict=True))
    assert found.scores["other"].tolist() == pytest.approx([expected] * 4, rel=1e-5)
    assert found.scores["twin"].eq(0).all()
    assert found.ahead("twin", "other").mean == pytest.approx(expected, rel=1e-5)
    assert set(found.seconds) == {FULL, "twin", "other"}


# A reference whose probabilities are right: the text is drawn from them.
RIGHT = [0.42, 0.21, 0.11, 0.1, 0.1, 0.06, 0.0]


def drawn_text(count: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    weights = torch.tensor(RIGHT)
    return torch.multinomial(weights, count * length, True, generator=generator).view(count, -1)


def test_it_is_the_gap_with_less_noise_where_the_reference_is_right() -> None:
    models = {FULL: constant(RIGHT), "other": constant([0.3, 0.3, 0.1, 0.1, 0.1, 0.1, 0.0])}
    clean, plan = drawn_text(60, 20), mask_plan(60, 20, draws=2)
    quick = gate(models, clean, plan)
    score = quick.score("other")
    long = compare(models, clean, plan)
    gap = long.gap("other")
    assert torch.allclose(
        quick.gaps["other"], long.measurements["other"].nelbo - long.measurements[FULL].nelbo
    )
    assert gap.low < score.mean < gap.high
    assert score.high - score.low < 0.05 * (gap.high - gap.low)


def test_it_ranks_as_the_long_evaluation_does_from_a_fiftieth_of_the_masks() -> None:
    # Each recipe is wrong in another direction, so that a few true tokens tell little.
    blurs = [0.1 + 0.02 * i for i in range(8)]
    models = {FULL: constant(RIGHT)}
    for i, blur in enumerate(blurs):
        shares = [(1 - blur) * p + blur * (j == i % 6) for j, p in enumerate(RIGHT)]
        models[f"{blur:.2f}"] = constant(shares)
    clean = drawn_text(200, 30)
    quick = gate(models, clean[:8], mask_plan(8, 30, seed=1))
    long = compare(models, clean, mask_plan(200, 30, seed=2, draws=2))
    names = list(quick.scores)
    gaps = {name: long.gap(name) for name in names}
    correlation, noisy = quick.rank_correlations(gaps)
    assert correlation > 0.9
    assert noisy < correlation
    scores = {name: quick.score(name).mean for name in names}
    assert [row[0][0] for row in gate_sheet(quick, FULL).rows] == sorted(
        names, key=scores.__getitem__
    )
    table = rank_sheet(quick, gaps, 1.0, 2)
    assert f"{correlation:.3f}" in table.caption
    assert [row[4][0] for row in table.rows] == [str(i + 1) for i in range(len(names))]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1, 2, 3], [10, 20, 30], 1.0),
        ([1, 2, 3], [30, 20, 10], -1.0),
        ([1, 2, 3, 4, 5], [5, 6, 7, 8, 7], 0.8207826816681233),  # scipy.stats.spearmanr
        ([0.1, 0.1, 2.0], [1.0, 2.0, 3.0], 0.8660254037844387),
    ],
)
def test_rank_correlation_is_spearmans(
    one: list[float], other: list[float], expected: float
) -> None:
    assert rank_correlation(one, other) == pytest.approx(expected)


@pytest.mark.parametrize(("one", "other"), [([1], [1]), ([1, 2], [1]), ([1, 1], [1, 2])])
def test_what_has_no_order_is_refused(one: list[float], other: list[float]) -> None:
    with pytest.raises(InputError, match="nothing to rank"):
        rank_correlation(one, other)


def test_what_cannot_be_scored_is_refused() -> None:
    clean, plan = tokens(2, 4), mask_plan(2, 4)
    with pytest.raises(InputError, match="there is no model 'full precision'"):
        gate({"star": contextual()}, clean, plan)
    with pytest.raises(InputError, match="different vocabularies"):
        gate({FULL: contextual(), "a": constant([0.1] * (VOCABULARY + 3))}, clean, plan)
    with pytest.raises(StarQuantError, match="'rtn' give no finite loss"):
        gate({FULL: contextual(), "rtn": constant([math.nan] * VOCABULARY)}, clean, plan)


@pytest.mark.slow
def test_it_ranks_the_bit_widths_of_a_shipped_model_as_the_long_evaluation_does() -> None:
    model, tokenizer = starquant_fx.from_pretrained("dream-tiny")
    clean = segments(excerpt("validation"), tokenizer, 256, 24)
    widths = ("rtn-w8a8", "rtn-w6a6", "rtn-w5a5", "rtn-w3a8", "rtn-w3a4")
    models = {FULL: model, **{w: starquant_fx.compile(model, w) for w in widths}}
    quick = gate(models, clean, mask_plan(24, 256, seed=1))
    plan = mask_plan(24, 256, seed=2, draws=2)
    bounds = {name: nelbo(one, clean, plan, name=name) for name, one in models.items()}
    gaps = [float((bounds[w] - bounds[FULL]).mean()) for w in widths]
    assert rank_correlation([quick.score(w).mean for w in widths], gaps) == pytest.approx(1)
    scores = [quick.score(w) for w in widths]
    assert all(a.high < b.low for a, b in itertools.pairwise(scores))
