"""Log-likelihoods of answers by a masked diffusion model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from starquant_fx.integrations.harness.answer_masks import answer_masks
from starquant_fx.integrations.harness.requests import Pair
from starquant_fx.integrations.harness.scoring import Row, Score, Scorer
from starquant_fx.progress import track


class Likelihood(NamedTuple):
    """What is known of an answer.

    Attributes:
        log_likelihood: Lower bound, by Monte Carlo or exactly, in nats.
        greedy: Whether denoising the answer from all masks, the surest token at each step, gives the answer; always
            False where that was not asked for.
    """

    log_likelihood: float
    greedy: bool


class Work(NamedTuple):
    """What scoring requests costs.

    Attributes:
        rows: Sequences that go through the model (twice with guidance).
        tokens: Tokens in them.
    """

    rows: int
    tokens: int


@dataclasses.dataclass(frozen=True)
class AnswerScorer:
    """Scores prompt-answer pairs; results depend neither on their order nor on the batches beyond rounding.

    Attributes:
        scorer: What runs the model.
        draws: Monte-Carlo draws an answer.
        seed: Seed of the masks.
        check_greedy: Also find whether the answer is the greedy one.
    """

    scorer: Scorer
    draws: int = 128
    seed: int = 0
    check_greedy: bool = True

    def score(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, Likelihood]]:
        """Yields (index of the pair, result); longest pairs first, so that a lack of memory shows at once."""
        order = sorted(range(len(pairs)), key=lambda i: (-_length(pairs[i]), i))
        sums = dict.fromkeys(order, 0.0)
        candidates: dict[int, Tensor] = {}
        previous: int | None = None
        rows = self._rows(pairs, track(order, "log-likelihoods", len(order)))
        for row, score in self.scorer.score(rows):
            if previous not in (None, row.request) and previous not in candidates:
                yield previous, Likelihood(sums[previous], False)
            previous = row.request
            sums[row.request] += row.weight * score.log_likelihood
            if self.check_greedy and bool(row.masked.all()) and score.surest_is_true:
                candidates[row.request] = _without(row.masked, score)
        if previous is not None and previous not in candidates:
            yield previous, Likelihood(sums[previous], False)
        for request, greedy in self._greedy(pairs, candidates).items():
            yield request, Likelihood(sums[request], greedy)

    def work(self, pairs: Sequence[Pair]) -> Work:
        """Counts rows and tokens, those of the greedy check beyond its first step left out."""
        counts = [len(self._masks(pair)[1]) for pair in pairs]
        tokens = sum(n * _length(pair) for n, pair in zip(counts, pairs, strict=True))
        return Work(sum(counts), tokens)

    def _masks(self, pair: Pair) -> tuple[Tensor, Tensor]:
        return answer_masks(
            len(pair.answer), self.draws, pair.identity, self.seed, with_full=self.check_greedy
        )

    def _rows(self, pairs: Sequence[Pair], order: Iterable[int]) -> Iterator[Row]:
        for index in order:
            pair = pairs[index]
            masked, weights = self._masks(pair)
            for mask, weight in zip(masked, weights.tolist(), strict=True):
                yield Row(index, pair.prompt, pair.answer, mask, weight)

    def _greedy(self, pairs: Sequence[Pair], masks: dict[int, Tensor]) -> dict[int, bool]:
        """Denoises the candidates further, a token a step, until one is wrong or none is left.

        A token that was revealed wrongly stays, so the first wrong one decides; most answers fall at the first step.
        """
        greedy = dict.fromkeys(masks, True)
        while masks := {i: m for i, m in masks.items() if greedy[i] and bool(m.any())}:
            rows = [Row(i, pairs[i].prompt, pairs[i].answer, m, 0.0) for i, m in masks.items()]
            rows.sort(key=lambda row: -row.length)
            for row, score in self.scorer.score(rows):
                greedy[row.request] = score.surest_is_true
                masks[row.request] = _without(row.masked, score)
        return greedy


def _without(masked: Tensor, score: Score) -> Tensor:
    """The mask after the surest token is revealed."""
    return masked & (torch.arange(len(masked)) != score.surest)


def _length(pair: Pair) -> int:
    return len(pair.prompt) + len(pair.answer)
