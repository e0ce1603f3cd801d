"""From figures to tables and to the flat summary."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import Tensor

from starquant_fx.evaluation import mean_interval

HEADER = (
    "| | gap ± over seeds | 95 % interval | gap minus {against}'s | KL ± over seeds | KL minus {against}'s "
    "| top-1 same, % | KL by ratio | MB | work |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)
Figures = list[dict[str, Any]]
"""What ``runs.run`` returned, one a seed."""


def means(figures: Figures, key: str) -> list[float]:
    """A figure's mean over segments, one a seed."""
    return [statistics.fmean(f[key]) for f in figures]


def paired(figures: Figures, key: str) -> Tensor:
    """A figure's mean over seeds, one a segment."""
    return torch.tensor([f[key] for f in figures], dtype=torch.float64).mean(0)


def row(label: str, figures: Figures, against: Figures) -> str:
    """One line of a Markdown table; intervals are over segments, seeds averaged, that against another row paired."""
    gap = mean_interval(paired(figures, "gap"))
    wider, behind = (_apart(figures, against, key) for key in ("gap", "divergence"))
    top1 = " / ".join(f"{100 * value:.1f}" for value in _mean(figures, "top1"))
    kl = " / ".join(f"{value:.2g}" for value in _mean(figures, "kl"))
    return (
        f"| {label} | {_spread(means(figures, 'gap'), '+.4f')} | [{gap.low:+.4f}, {gap.high:+.4f}] | {wider} "
        f"| {_spread(means(figures, 'divergence'), '.4f')} | {behind} | {top1} | {kl} "
        f"| {figures[0]['weights_mb']:.2f} | {100 * figures[0]['extra_work']:.1f} % |"
    )


def _apart(figures: Figures, against: Figures, key: str) -> str:
    """The mean difference to another row, paired by segment."""
    if figures is against:
        return "-"
    apart = mean_interval(paired(figures, key) - paired(against, key))
    return f"{apart.mean:+.4f} [{apart.low:+.4f}, {apart.high:+.4f}]"


def _spread(values: list[float], form: str) -> str:
    """Mean and standard deviation over seeds."""
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{form}}{deviation}"


def table(title: str, rows: dict[str, Figures], against: str) -> str:
    """A Markdown table with its title.

    Args:
        title: Its heading.
        rows: Figures by label.
        against: Label of the row that the others are compared with.
    """
    lines = [row(label, figures, rows[against]) for label, figures in rows.items()]
    return "\n".join([f"### {title}", "", HEADER.format(against=against), *lines, ""])


def full_precision(figures: Figures) -> float:
    """NELBO of full precision, mean over seeds, nats a token."""
    return statistics.fmean(means(figures, "nelbo_full"))


def summary(rows: dict[str, Figures]) -> dict[str, float]:
    """The flat summary of one model: mean gaps, and W8A8's as a share of full precision's NELBO in per cent."""
    found = {key: statistics.fmean(means(figures, "gap")) for key, figures in rows.items()}
    key = "w8a8_gap_percent"
    if key in found:
        found[key] = 100 * found[key] / full_precision(rows[key])
    return found


def _mean(figures: Figures, key: str) -> list[float]:
    return [statistics.fmean(values) for values in zip(*(f[key] for f in figures), strict=True)]
