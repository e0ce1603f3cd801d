"""What was measured, as tables: costs, masked tokens by mask ratio, trajectories, and the spread over seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from starquant_fx.evaluation.comparison import Comparison
from starquant_fx.evaluation.intervals import mean_interval
from starquant_fx.evaluation.table import NOTHING, Cell, Sheet
from starquant_fx.evaluation.trajectory import Trajectory


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a model costs beside accuracy; the caller measures it.

    Attributes:
        weights_mb: Weights in memory, in 10^6 bytes.
        compile_seconds: Time to compile it; None for a model that was not compiled.
    """

    weights_mb: float
    compile_seconds: float | None = None


def summary_sheet(comparison: Comparison, costs: Mapping[str, Cost]) -> Sheet:
    """NELBO, gap, agreement and cost; 80 columns are enough for names up to 14 characters.

    Args:
        comparison: The measurements.
        costs: Costs of the models by name; a model without an entry gets dashes.

    Returns:
        A row of up to three lines for each model.
    """
    titles: tuple[Cell, ...] = (
        ("recipe",),
        ("weight", "MB"),
        ("NELBO", "nats"),
        ("gap", "95 % interval"),
        ("mask", "ratio"),
        ("top-1", "same %"),
        ("KL", "nats"),
        ("compile", "/ run s"),
    )
    rows = []
    for name, measured in comparison.measurements.items():
        gap = ratios = top1 = kl = NOTHING
        if name != comparison.reference:
            difference = comparison.gap(name)
            gap = f"{difference.mean:+.4f}", f"[{difference.low:.4f}, {difference.high:.4f}]"
            ratios, top1 = _ratios(comparison), _percent(measured.agreement.top1.mean(1))
            kl = _short(measured.agreement.kl.mean(1))
        cost = costs.get(name)
        compiling = cost.compile_seconds if cost else None
        seconds = "-" if compiling is None else f"{compiling:.1f}", f"{measured.seconds:.1f}"
        weight = (f"{cost.weights_mb:.2f}",) if cost else NOTHING
        nats = (f"{float(measured.nelbo.mean()):.4f}",)
        rows.append(((name,), weight, nats, gap, ratios, top1, kl, seconds))
    draws, count, length = comparison.plan.likelihood.shape
    caption = (
        f"{count} held-out segments of {length} tokens. NELBO per token, by {draws} random "
        f"mask{'s' * (draws > 1)} a segment (seed {comparison.plan.seed}), the same for all; gap to "
        f"{comparison.reference}, paired by segment; top-1 agreement and KL with "
        f"{comparison.reference} on masked tokens; MB = 10^6 bytes; run: this table's forward passes."
    )
    return Sheet(titles, tuple(rows), caption)


def masked_sheet(comparison: Comparison) -> Sheet:
    """Accuracy and confidence on masked tokens, by mask ratio."""
    titles = (
        ("recipe",),
        ("mask", "ratio"),
        ("accuracy", "%"),
        ("confidence", "drift"),
        ("signed", "drift"),
    )
    rows = []
    for name, measured in comparison.measurements.items():
        figures = measured.agreement
        drift = signed = NOTHING
        if name != comparison.reference:
            drift = tuple(f"{v:.4f}" for v in figures.drift.mean(1).tolist())
            signed = tuple(f"{v:+.4f}" for v in figures.signed_drift.mean(1).tolist())
        accuracy = _percent(figures.accuracy.mean(1))
        rows.append(((name,), _ratios(comparison), accuracy, drift, signed))
    caption = (
        "Masked tokens: share whose most likely token is the true one; mean absolute and signed "
        f"difference of the largest probability from that of {comparison.reference}."
    )
    return Sheet(titles, tuple(rows), caption)


def trajectory_sheet(found: Mapping[str, Trajectory], reference: str) -> Sheet:
    """Commit flips and errors along generations, over all steps and layers; an interval is over prompts."""
    titles = (
        ("recipe",),
        ("commit flips", "% [95 %]"),
        ("position /", "token %"),
        ("hidden", "error"),
        ("attention", "error"),
        ("apart", "%"),
    )
    rows: list[tuple[Cell, ...]] = []
    for name, one in found.items():
        flips, total = mean_interval(one.flips), one.committed.sum()
        moved = float(1 - one.positions.sum() / total)
        renamed = float((one.positions - one.tokens).sum() / total)
        rows.append(
            (
                (name,),
                (
                    f"{100 * flips.mean:.1f}",
                    f"[{100 * flips.low:.1f}, {100 * flips.high:.1f}]",
                ),
                (f"{100 * moved:.1f}", f"{100 * renamed:.1f}"),
                _short(one.hidden.mean((0, 2))[[0, -1]]),
                _short(one.attention.mean((0, 2))[[0, -1]]),
                (f"{100 * float(one.apart[-1].mean()):.1f}",),
            )
        )
    steps, prompts = next(iter(found.values())).committed.shape if found else (0, 0)
    caption = (
        f"Greedy generations of {reference}: {prompts} prompts, {steps} denoising steps. Given the same states: share "
        "of its tokens that a recipe unmasks at another step (position) or as another token; relative squared errors "
        "of hidden states and attention outputs at the first and last layer, mean over steps. Apart: share of the new "
        "positions that end up different when a recipe generates by itself."
    )
    return Sheet(titles, tuple(rows), caption)


def spread_sheet(comparisons: Sequence[Comparison]) -> Sheet:
    """Means over seeds with their standard deviation.

    Args:
        comparisons: One a seed, of the same models, at least two.

    Returns:
        A row for each model.
    """
    first = comparisons[0]
    titles = (
        ("recipe",),
        ("NELBO", "nats"),
        ("gap", "nats"),
        ("mask", "ratio"),
        ("top-1", "same %"),
        ("KL", "nats"),
    )
    rows: list[tuple[Cell, ...]] = []
    for name in first.measurements:
        nats = [float(c.measurements[name].nelbo.mean()) for c in comparisons]
        gap = ratios = top1 = kl = NOTHING
        if name != first.reference:
            gap = (_spread([c.gap(name).mean for c in comparisons], "+.4f", ".4f"),)
            agreements = [c.measurements[name].agreement for c in comparisons]
            shares = zip(*((100 * a.top1.mean(1)).tolist() for a in agreements), strict=True)
            nearness = zip(*(a.kl.mean(1).tolist() for a in agreements), strict=True)
            ratios = _ratios(first)
            top1 = tuple(_spread(values, ".1f", ".1f") for values in shares)
            kl = tuple(_spread(values, ".2g", ".1g") for values in nearness)
        rows.append(((name,), (_spread(nats, ".4f", ".4f"),), gap, ratios, top1, kl))
    seeds = ", ".join(str(c.plan.seed) for c in comparisons)
    caption = f"Mean and standard deviation over seeds {seeds}; a seed draws masks, calibration states and starts anew."
    return Sheet(titles, tuple(rows), caption)


def spread(values: Iterable[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1 in the denominator) of at least two values."""
    given = torch.tensor(list(values), dtype=torch.float64)
    return float(given.mean()), float(given.std())


def _spread(values: Iterable[float], mean_form: str, deviation_form: str) -> str:
    mean, deviation = spread(values)
    return f"{mean:{mean_form}} ± {deviation:{deviation_form}}"


def _ratios(comparison: Comparison) -> Cell:
    return tuple(f"{ratio:g}".removeprefix("0") for ratio in comparison.plan.ratios)


def _percent(values: Tensor) -> Cell:
    return tuple(f"{100 * share:.1f}" for share in values.tolist())


def _short(values: Tensor) -> Cell:
    return tuple(f"{value:.2g}" for value in values.tolist())
