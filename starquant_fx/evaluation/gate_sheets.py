"""The quick gate as tables."""

from __future__ import annotations

from collections.abc import Mapping

from starquant_fx.evaluation.gate import Gate
from starquant_fx.evaluation.intervals import Interval
from starquant_fx.evaluation.table import Cell, Sheet


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


def rank_sheet(quick: Gate, gaps: Mapping[str, Interval], seconds: float, draws: int) -> Sheet:
    """The quick gate beside a long evaluation.

    Args:
        quick: The gate.
        gaps: Name -> the long evaluation's NELBO gap to the reference.
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
    correlations = quick.rank_correlations(gaps)
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
        f"Spearman's rank correlation with the gap over {len(order)} recipes: {correlations[0]:.3f} for the score, "
        f"{correlations[1]:.3f} for the NELBO's difference under the gate's own masks. Gap: NELBO minus the "
        f"reference's in 10^-3 nats per token, by {draws} other masks a segment, {seconds:.1f} s; score: the quick "
        f"gate's, {sum(quick.seconds.values()):.1f} s."
    )
    return Sheet(titles, tuple(rows), caption)
