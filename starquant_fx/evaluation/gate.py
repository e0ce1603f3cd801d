"""The quick gate: one number a recipe, in a fraction of the long evaluation's time, that ranks recipes as it does."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from starquant_fx.errors import InputError
from starquant_fx.evaluation.agreement import divergence, require_reference, require_vocabulary
from starquant_fx.evaluation.alignment import Model, masked_log_probabilities
from starquant_fx.evaluation.checks import require_fit
from starquant_fx.evaluation.intervals import Interval, mean_interval
from starquant_fx.evaluation.masks import MaskPlan, batch_count, masked_batches
from starquant_fx.evaluation.table import Cell, Sheet
from starquant_fx.evaluation.timing import Timed
from starquant_fx.progress import track


@dataclasses.dataclass(frozen=True)
class Gate:
    """Scores of recipes under the same masks.

    Attributes:
        scores: Name -> [N] float64, nats per token, one a segment; the reference is not among them.
        seconds: Name -> time in forward passes, the reference's included.
        plan: The masks.
    """

    scores: dict[str, Tensor]
    seconds: dict[str, float]
    plan: MaskPlan

    def score(self, name: str) -> Interval:
        """The recipe's number with its 95 % interval over segments."""
        return mean_interval(self.scores[name])

    def ahead(self, name: str, other: str) -> Interval:
        """By how much a recipe is better than another, paired by segment; above 0 it is."""
        return mean_interval(self.scores[other] - self.scores[name])


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
    scores = {
        name: torch.zeros(len(segments), dtype=torch.float64)
        for name in models
        if name != reference
    }
    batches = masked_batches(segments, plan.likelihood, mask_id, batch)
    for masked in track(batches, "quick gate", batch_count(plan.likelihood, batch)):
        expected = masked_log_probabilities(timed[reference], masked, reference)
        for name, score in scores.items():
            given = masked_log_probabilities(timed[name], masked, name).to(expected.device)
            require_vocabulary(name, given, reference, expected)
            score[masked.rows] += masked.means(divergence(expected, given)) / len(plan.likelihood)
    return Gate(scores, {name: model.seconds for name, model in timed.items()}, plan)


def gate_sheet(measured: Gate, reference: str) -> Sheet:
    """The scores, best first."""
    titles = (
        ("recipe",),
        ("score", "mnats"),
        ("95 %", "interval"),
        ("behind the", "best"),
        ("run", "s"),
    )
    order = sorted(measured.scores, key=lambda name: float(measured.scores[name].mean()))
    rows: list[tuple[Cell, ...]] = []
    for name in order:
        score, behind = measured.score(name), measured.ahead(order[0], name)
        gap = f"[{1e3 * behind.low:.2f}, {1e3 * behind.high:.2f}]" if name != order[0] else "-"
        interval = f"[{1e3 * score.low:.2f}, {1e3 * score.high:.2f}]"
        seconds = f"{measured.seconds[name]:.1f}"
        rows.append(((name,), (f"{1e3 * score.mean:.2f}",), (interval,), (gap,), (seconds,)))
    draws, count, length = measured.plan.likelihood.shape
    caption = (
        f"Quick gate: KL({reference} || recipe) per masked token in 10^-3 nats, on {count} segments of {length} tokens "
        f"with {draws} random mask{'s' * (draws > 1)} each (seed {measured.plan.seed}), the same for all recipes; 95 % "
        f"intervals over segments, that behind the best paired; {sum(measured.seconds.values()):.1f} s of forward "
        "passes in all."
    )
    return Sheet(titles, tuple(rows), caption)


def rank_sheet(
    quick: Gate, gaps: Mapping[str, Interval], correlation: float, seconds: float, draws: int
) -> Sheet:
    """The quick gate beside a long evaluation.

    Args:
        quick: The gate.
        gaps: Name -> the long evaluation's NELBO gap to the reference.
        correlation: Spearman's, of scores and gaps.
        seconds: The long evaluation took.
        draws: Masks a segment of the long evaluation.

    Returns:
        The recipes in the long evaluation's order.
    """
    titles = (
        ("recipe",),
        ("gap", "mnats"),
        ("95 %", "interval"),
        ("score", "mnats"),
        ("rank by", "gap"),
        ("rank by", "score"),
    )
    order = sorted(gaps, key=lambda name: gaps[name].mean)
    by_score = sorted(gaps, key=lambda name: float(quick.scores[name].mean()))
    rows: list[tuple[Cell, ...]] = [
        (
            (name,),
            (f"{1e3 * gaps[name].mean:.2f}",),
            (f"[{1e3 * gaps[name].low:.2f}, {1e3 * gaps[name].high:.2f}]",),
            (f"{1e3 * quick.score(name).mean:.2f}",),
            (str(rank),),
            (str(by_score.index(name) + 1),),
        )
        for rank, name in enumerate(order, 1)
    ]
    caption = (
        f"Spearman's rank correlation {correlation:.3f} over {len(order)} recipes. Gap: NELBO minus the reference's in "
        f"10^-3 nats per token, by {draws} other masks a segment, {seconds:.1f} s; score: the quick gate's, "
        f"{sum(quick.seconds.values()):.1f} s."
    )
    return Sheet(titles, tuple(rows), caption)


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
    return below + ((given[:, None] == given).sum(1) - 1) / 2
