"""The quick gate: one number a recipe, in a fraction of the long evaluation's time, that ranks recipes as it does."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from starquant_fx.errors import InputError
from starquant_fx.evaluation.agreement import divergence, require_reference, require_vocabulary
from starquant_fx.evaluation.alignment import Model, masked_log_probabilities, true_token
from starquant_fx.evaluation.checks import require_fit
from starquant_fx.evaluation.intervals import Interval, mean_interval
from starquant_fx.evaluation.masks import MaskPlan, batch_count, masked_batches
from starquant_fx.evaluation.timing import Timed
from starquant_fx.progress import track


@dataclasses.dataclass(frozen=True)
class Gate:
    """Scores of recipes under the same masks.

    Attributes:
        scores: Name -> [N] float64, nats per token, one a segment; the reference is not among them.
        gaps: Name -> [N] float64, the NELBO's difference to the reference under the same masks; for comparison.
        bound: [N] float64, the reference's NELBO under the same masks, nats per token.
        seconds: Name -> time in forward passes, the reference's included.
        plan: The masks.
    """

    scores: dict[str, Tensor]
    gaps: dict[str, Tensor]
    bound: Tensor
    seconds: dict[str, float]
    plan: MaskPlan

    def score(self, name: str) -> Interval:
        """The recipe's number with its 95 % interval over segments."""
        return mean_interval(self.scores[name])

    def ahead(self, name: str, other: str) -> Interval:
        """By how much a recipe is better than another, paired by segment; above 0 it is."""
        return mean_interval(self.scores[other] - self.scores[name])

    def rank_correlations(self, gaps: Mapping[str, Interval]) -> tuple[float, float]:
        """Spearman's rank correlation of a long evaluation's gaps with the scores, and with the gate's own gaps."""
        wanted = [gaps[name].mean for name in self.scores]
        first, second = (
            rank_correlation([float(v.mean()) for v in own.values()], wanted)
            for own in (self.scores, self.gaps)
        )
        return first, second


def gate(
    models: Mapping[str, Model],
    segments: Tensor,
    plan: MaskPlan,
    reference: str = "full precision",
    *,
    batch: int = 8,
) -> Gate:
    """Scores models by their divergence from the reference under the masks of the NELBO.

    The score is the NELBO gap with the true token replaced by the reference's distribution of it:

        E_k E_{M: |M| = k} [ 1/k · sum over i in M of KL(p(x_i | x without M) || q(x_i | x without M)) ],  k ~ U{1..L}

    For a reference whose probabilities are right, both have the same mean: the cross-entropy of a token drawn from p
    under q, minus that under p, is on average KL(p || q). The score lacks the noise of which token happened to be the
    true one, which is most of the gap's. What it cannot see is a recipe that by chance mends a fault of the reference.

    Args:
        models: Name -> denoiser, the reference among them.
        segments: [N, L] token ids, without padding.
        plan: Masks for these segments; only ``likelihood`` is used.
        reference: Name of the reference.
        batch: Segments a forward pass.

    Returns:
        The scores.

    Raises:
        InputError: Models, segments and plan do not fit each other, or there is no such reference.
        StarQuantError: A model's logits give no finite loss.
    """
    require_reference(models, reference)
    mask_id = require_fit(models, segments, plan)
    timed = {name: Timed(model) for name, model in models.items()}
    scores, gaps = (
        {name: torch.zeros(len(segments), dtype=torch.float64) for name in models} for _ in range(2)
    )
    bound = torch.zeros(len(segments), dtype=torch.float64)
    batches = masked_batches(segments, plan.likelihood, mask_id, batch)
    for masked in track(batches, "quick gate", batch_count(plan.likelihood, batch)):
        expected = masked_log_probabilities(timed[reference], masked, reference)
        likelihood = true_token(expected, masked)
        bound[masked.rows] -= masked.means(likelihood)
        for name in [name for name in models if name != reference]:
            given = masked_log_probabilities(timed[name], masked, name).to(expected.device)
            require_vocabulary(name, given, reference, expected)
            scores[name][masked.rows] += masked.means(divergence(expected, given))
            gaps[name][masked.rows] += masked.means(likelihood - true_token(given, masked))
    draws, seconds = len(plan.likelihood), {name: model.seconds for name, model in timed.items()}
    measured = [{n: v / draws for n, v in f.items() if n != reference} for f in (scores, gaps)]
    return Gate(measured[0], measured[1], bound / draws, seconds, plan)


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rank correlation; equal values share the mean of their ranks.

    Args:
        one: n values, n >= 2.
        other: n values.

    Returns:
        In [-1, 1].

    Raises:
        InputError: Fewer than two values, different numbers of them, or all of one side are equal.
    """
    if len(one) != len(other) or len(one) < 2 or min(len(set(one)), len(set(other))) < 2:
        raise InputError(
            "there is nothing to rank",
            where="values",
            expected="two or more different values on each side",
            got=f"{list(one)} and {list(other)}",
        )
    ranks = torch.stack([_ranks(one), _ranks(other)])
    return float(torch.corrcoef(ranks)[0, 1])


def _ranks(values: Sequence[float]) -> Tensor:
    given = torch.tensor(values, dtype=torch.float64)
    below = (given[:, None] > given).sum(1)
    return below + ((given[:, None] == given).sum(1) - 1).double() / 2
