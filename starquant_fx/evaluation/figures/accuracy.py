"""What a recipe costs against the bits it keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from starquant_fx.evaluation.figures.style import INK, label, legend, looks, panels
from starquant_fx.evaluation.intervals import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 0.3
"""Of the room that the methods of one bit width share; 1 is the distance to the next."""


@dataclasses.dataclass(frozen=True)
class Point:
    """One recipe.

    Attributes:
        method: A line for each method.
        bits: Weight and activation bits.
        gap: NELBO minus full precision's, nats per token, with its interval.
    """

    method: str
    bits: tuple[int, int]
    gap: Interval


def gap_by_bits(points: Sequence[Point], bars: str = "95 % intervals") -> Figure:
    """The gap to full precision against weight and activation bits, a line a method.

    Args:
        points: The recipes.
        bars: What the intervals are.

    Returns:
        One panel; linear around zero as far as the intervals are wide, logarithmic beyond.
    """
    figure, axes = panels(1, 1, width=6.4, height=4.0)
    panel = axes[0, 0]
    widths = sorted({p.bits for p in points}, key=lambda bits: (sum(bits), bits))
    styles = looks(dict.fromkeys(p.method for p in points))
    for i, (method, look) in enumerate(styles.items()):
        own = sorted((p for p in points if p.method == method), key=lambda p: widths.index(p.bits))
        shift = WIDTH * ((i + 0.5) / len(styles) - 0.5)
        at = [widths.index(p.bits) + shift for p in own]
        means = [p.gap.mean for p in own]
        ends = [
            [max(p.gap.mean - p.gap.low, 0.0) for p in own],
            [max(p.gap.high - p.gap.mean, 0.0) for p in own],
        ]
        panel.errorbar(at, means, yerr=ends, label=method, capsize=3, **look._asdict())
    spans = sorted(p.gap.high - p.gap.low for p in points)
    panel.set_yscale("symlog", linthresh=max(spans[len(spans) // 2], 1e-4))
    panel.axhline(0, color=INK, linewidth=1)
    panel.set_xticks(range(len(widths)), [f"W{w}A{a}" for w, a in widths])
    label(panel, "bits of weights and activations", "NELBO gap to full precision (nats per token)")
    panel.set_title(bars, color=INK, fontsize="small")
    legend(figure, panel)
    return figure
