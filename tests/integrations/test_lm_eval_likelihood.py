"""Monte-Carlo likelihoods: exact where they can be, unbiased elsewhere, the same in any batch and for any model."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import starquant_fx
from starquant_fx.errors import StarQuantError
from starquant_fx.integrations.harness.likelihood import AnswerScorer
from starquant_fx.integrations.harness.requests import Pair
from starquant_fx.integrations.harness.scoring import Scorer
from tests import small_models
from tests.evaluation import toys

KINDS = ("llada", "dream", "bert")


def pairs(kind: str, lengths: list[tuple[int, int]], seed: int = 0) -> list[Pair]:
    draws = torch.Generator().manual_seed(seed)

    def ids(count: int) -> list[int]:
        return torch.randint(3, small_models.VOCABULARY[kind], (count,), generator=draws).tolist()

    return [Pair(f"request {i}", ids(p), ids(a)) for i, (p, a) in enumerate(lengths)]


def scorer(kind: str, **options: Any) -> AnswerScorer:
    own = {k: options.pop(k) for k in ("draws", "seed", "check_greedy") if k in options}
    model = options.pop("model", None) or small_models.model(kind)
    return AnswerScorer(Scorer(model, small_models.MASK[kind], **options), **own)


def results(of: AnswerScorer, requests: list[Pair]) -> list[float]:
    found = dict(of.score(requests))
    return [found[i].log_likelihood for i in range(len(requests))]


def by_definition(kind: str, pair: Pair) -> float:
    """E over k of E over subsets of size k of L/k · sum of log p, subset by subset, one forward each."""
    model, length, start = small_models.model(kind), len(pair.answer), len(pair.prompt)
    clean = torch.tensor([pair.prompt + pair.answer])
    total = 0.0
    for k in range(1, length + 1):
        sums = []
        for subset in itertools.combinations(range(length), k):
            noisy = clean.clone()
            noisy[0, [start + i for i in subset]] = small_models.MASK[kind]
            with torch.no_grad():
                logits = model(noisy).logits[0]
            read = [start + i - (kind == "dream") for i in subset]
            log_p = logits[read].double().log_softmax(-1)
            sums.append(sum(float(log_p[j, pair.answer[i]]) for j, i in enumerate(subset)))
        total += length / k * sum(sums) / len(sums) / length
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_short_answers_are_exact(kind: str) -> None:
    requests = pairs(kind, [(5, 1), (3, 2), (6, 4), (1, 3)])
    found = results(scorer(kind, draws=15), requests)
    assert found == pytest.approx([by_definition(kind, pair) for pair in requests], abs=1e-4)


def test_draws_converge_to_the_exact_value() -> None:
    toy, pair = toys.contextual(), Pair("a", [1, 2], [3, 4, 5, 0, 1, 3, 2, 2, 4])

    def estimate(draws: int, seed: int = 0) -> list[float]:
        of = AnswerScorer(Scorer(toy, toys.MASK, 64), draws, seed, check_greedy=False)
        return results(of, [pair])

    (exact,) = estimate(2**9 - 1)
    found = torch.tensor([estimate(24, seed) for seed in range(100)])
    error = float(found.mean()) - exact
    assert abs(error) < 4 * float(found.std()) / 100**0.5
    # The sizes are stratified, so that one estimate of 24 draws is already close.
    assert float(found.std()) < 0.05 * abs(exact)


def test_every_model_meets_the_same_masks_and_no_prompt_is_masked() -> None:
    requests = [Pair("a", [1, 2], [3, 4, 5, 0] * 3), Pair("b", [2], [1, 0, 3])]
    calls = []
    for seed in (0, 1):
        toy = toys.contextual(seed)
        found = AnswerScorer(Scorer(toy, toys.MASK), draws=12, check_greedy=False)
        dict(found.score(requests))
        calls.append(toy.calls)
        for ids in toy.calls:
            assert not bool((ids[:, :1] == toys.MASK).any())
    assert len(calls[0]) == len(calls[1]) > 1
    assert all(torch.equal(a, b) for a, b in zip(*calls, strict=True))


LENGTHS = [(9, 3), (9, 5), (8, 3), (2, 1), (9, 3), (12, 6)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 5, "padding": False}])
def test_batches_do_not_change_results(kind: str, options: dict[str, Any]) -> None:
    requests = pairs(kind, LENGTHS)
    expected = results(scorer(kind, draws=8, batch_size=7), requests)
    assert results(scorer(kind, draws=8, **options), requests) == pytest.approx(expected, abs=1e-4)
    assert results(scorer(kind, draws=8, batch_size=3), requests[::-1]) == pytest.approx(
        expected[::-1], abs=1e-4
    )


@pytest.mark.parametrize("kind", ["llada", pytest.param("dream", marks=pytest.mark.slow)])
def test_batches_do_not_change_results_of_compiled_models(kind: str) -> None:
    model = starquant_fx.compile(
        small_models.model(kind),
        "rtn-w8a8",
        calibration=small_models.masked_ids(kind, (2, 12), 0.5),
    )
    requests = pairs(kind, LENGTHS)
    alone = results(scorer(kind, model=model, draws=8, batch_size=1), requests)
    together = results(scorer(kind, model=model, draws=8, batch_size=6), requests)
    # A rounding difference may move a code by one level.
    assert together == pytest.approx(alone, rel=5e-3)
    full = results(scorer(kind, draws=8), requests)
    assert alone == pytest.approx(full, rel=0.1)
    assert alone != full


def test_a_padded_batch_was_among_them() -> None:
    widths = []

    class Spy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_models.model("llada")
            self.config = self.inner.config

        def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Any:
            widths.append(attention_mask)
            return self.inner(ids, attention_mask=attention_mask)

    results(scorer("llada", model=Spy(), draws=8, batch_size=7), pairs("llada", LENGTHS))
    assert any(mask is not None for mask in widths)
    assert any(mask is None for mask in widths)


@pytest.mark.parametrize("kind", ["llada", "dream"])
def test_greedy_is_the_answer_of_token_by_token_denoising(kind: str) -> None:
    model, mask = small_models.model(kind), small_models.MASK[kind]
    requests = []
    for index, (prompt, answer) in enumerate([(4, 1), (5, 3), (3, 6)]):
        (pair,) = pairs(kind, [(prompt, answer)], seed=index + 20)
        ids = torch.tensor([pair.prompt + [mask] * answer])
        for _ in range(answer):
            with torch.no_grad():
                logits = model(ids).logits
            shifted = torch.cat([logits[:, :1], logits[:, :-1]], 1) if kind == "dream" else logits
            best = shifted.softmax(-1).max(-1)
            sure = best.values.masked_fill(ids != mask, -1)
            at = int(sure.argmax())
            ids[0, at] = best.indices[0, at]
        greedy = ids[0, prompt:].tolist()
        requests.append(Pair(f"{index}", pair.prompt, greedy))
        for wrong in range(answer):
            changed = [t + (i == wrong) * (1 if t < 100 else -1) for i, t in enumerate(greedy)]
            requests.append(Pair(f"{index} {wrong}", pair.prompt, changed))
    if any(mask in pair.answer for pair in requests):
        pytest.fail("the models must not predict [MASK] here: choose another seed")
    found = dict(scorer(kind, draws=4, batch_size=4).score(requests))
    assert [found[i].greedy for i in range(len(requests))] == [
        " " not in p.identity for p in requests
    ]
    unasked = dict(scorer(kind, draws=4, check_greedy=False).score(requests))
    assert not any(result.greedy for result in unasked.values())
    for index, result in unasked.items():
        assert result.log_likelihood == pytest.approx(found[index].log_likelihood, abs=1e-4)


@pytest.mark.parametrize("kind", ["llada", "dream"])
def test_guidance_moves_away_from_the_masked_prompt(kind: str) -> None:
    (pair,) = pairs(kind, [(4, 1)])
    mask, weight = small_models.MASK[kind], 0.7
    both = torch.tensor([[*pair.prompt, mask], [mask] * 5])
    with torch.no_grad():
        logits = small_models.model(kind)(both).logits[:, -2 if kind == "dream" else -1]
    guided = logits[1] + (weight + 1) * (logits[0] - logits[1])
    expected = float(guided.log_softmax(-1)[pair.answer[0]])
    assert results(scorer(kind, cfg_scale=weight), [pair]) == pytest.approx([expected], abs=1e-4)


def test_logits_that_are_no_numbers_are_refused() -> None:
    broken = toys.Toy(lambda ids: torch.full((*ids.shape, toys.VOCABULARY), float("nan")))
    with pytest.raises(StarQuantError, match="no finite log-likelihood"):
        dict(AnswerScorer(Scorer(broken, toys.MASK)).score([Pair("a", [1], [2])]))


def test_work_is_counted() -> None:
    of = scorer("llada", draws=7)
    requests = pairs("llada", [(5, 1), (3, 3)])
    assert of.work(requests) == (1 + 7, 6 + 7 * 6)
    assert dict(of.score([])) == {}
