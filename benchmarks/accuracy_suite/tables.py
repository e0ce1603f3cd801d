"""From figures to tables and to the flat summary."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from starquant_fx.evaluation import mean_interval

HEADER = (
    "| | gap, nats a token | spread over seeds | 95 % interval | top-1 same, % | KL, nats | MB | compile, s |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|"
)
Figures = list[dict[str, Any]]
"""What ``runs.run`` returned, one a seed."""


def gaps(figures: Figures) -> list[float]:
    """Mean NELBO minus full precision's, nats a token, one a seed."""
    return [statistics.fmean(f["nelbo"]) - statistics.fmean(f["nelbo_full"]) for f in figures]


def row(label: str, figures: Figures) -> str:
    """One line of a Markdown table; the interval is over segments, paired, seeds averaged."""
    found = gaps(figures)
    spread = f"{statistics.stdev(found):.4f}" if len(found) > 1 else "-"
    paired = torch.tensor([f["nelbo"] for f in figures]) - torch.tensor(
        [f["nelbo_full"] for f in figures]
    )
    interval = mean_interval(paired.double().mean(0))
    top1 = " / ".join(f"{100 * value:.1f}" for value in _mean(figures, "top1"))
    kl = " / ".join(f"{value:.2g}" for value in _mean(figures, "kl"))
    seconds = statistics.fmean(f["compile_seconds"] for f in figures)
    return (
        f"| {label} | {statistics.fmean(found):+.4f} | {spread} | [{interval.low:+.4f}, {interval.high:+.4f}] "
        f"| {top1} | {kl} | {figures[0]['weights_mb']:.2f} | {seconds:.0f} |"
    )


def table(title: str, rows: list[tuple[str, Figures]]) -> str:
    """A Markdown table with its title."""
    lines = [row(label, figures) for label, figures in rows]
    return "\n".join([f"### {title}", "", HEADER, *lines, ""])


def full_precision(figures: Figures) -> float:
    """NELBO of full precision, mean over seeds, nats a token."""
    return statistics.fmean(statistics.fmean(f["nelbo_full"]) for f in figures)


def summary(rows: dict[str, Figures]) -> dict[str, float]:
    """The flat summary of one model: mean gaps, and W8A8's as a share of full precision's NELBO in per cent."""
    found = {key: statistics.fmean(gaps(figures)) for key, figures in rows.items()}
    key = "w8a8_gap_percent"
    if key in found:
        found[key] = 100 * found[key] / full_precision(rows[key])
    return found


def _mean(figures: Figures, key: str) -> list[float]:
    return [statistics.fmean(values) for values in zip(*(f[key] for f in figures), strict=True)]
