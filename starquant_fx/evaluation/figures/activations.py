"""Activations of masked and unmasked tokens (the paper's Fig. 1 and 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from starquant_fx.evaluation.figures.style import COLOURS, MARKERS, label, legend, panels
from starquant_fx.evaluation.profiles import LEVELS, STATES, Profile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BARS = (((0.001, 0.999), 1.0), ((0.01, 0.99), 3.0), ((0.25, 0.75), 7.0))
"""Shares of the values, and the width in points of the bar that spans them."""
APART = 0.18
COLUMNS = 4
FAR = 8.0
"""With extremes so many times beyond the usual 0.1 % tail, an axis is logarithmic there."""


def activations_by_layer(profiles: Sequence[Profile]) -> Figure:
    """Ranges of the values at each site, a panel for sites of one kind, masked beside unmasked in each layer.

    Args:
        profiles: Of the sites.

    Returns:
        Bars span 50, 98 and 99.8 % of the values; points are the extremes.
    """
    kinds = list(dict.fromkeys(p.roles for p in profiles))
    figure, axes = _grid(len(kinds))
    for panel, roles in zip(axes, kinds, strict=True):
        own = [p for p in profiles if p.roles == roles]
        for state, name in enumerate(STATES):
            _ranges(panel, own, state, name)
        ranges = torch.stack([p.quantiles.abs() for p in own])
        tail = float(ranges[..., [1, -2]].amax(-1).median())
        if 0 < FAR * tail < float(ranges.max()):
            panel.set_yscale("symlog", linthresh=tail)
        panel.set_xticks([p.layer + 1 for p in own])
        label(panel, "layer", "activation", f"input of {', '.join(roles)}")
    legend(figure, axes[0])
    return figure


def activations_by_channel(profiles: Sequence[Profile]) -> Figure:
    """The largest absolute activation of each channel, a panel for each kind of site, in its middle layer.

    Args:
        profiles: Of the sites.

    Returns:
        Where the two states' outliers are.
    """
    kinds = list(dict.fromkeys(p.roles for p in profiles))
    figure, axes = _grid(len(kinds))
    for panel, roles in zip(axes, kinds, strict=True):
        own = [p for p in profiles if p.roles == roles]
        middle = own[len(own) // 2]
        for state, name in enumerate(STATES):
            panel.plot(
                middle.channels[state].numpy(),
                color=COLOURS[state],
                label=name,
                linewidth=0.8,
                linestyle=("-", "--")[state],
            )
        title = f"input of {', '.join(roles)}, layer {middle.layer + 1}"
        label(panel, "channel", "largest |activation|", title)
    legend(figure, axes[0])
    return figure


def _grid(count: int) -> tuple[Figure, list[Any]]:
    columns = min(count, COLUMNS)
    figure, axes = panels(-(-count // columns), columns, width=3.4)
    for unused in axes.flat[count:]:
        unused.set_axis_off()
    return figure, list(axes.flat[:count])


def _ranges(panel: Any, profiles: Sequence[Profile], state: int, name: str) -> None:
    """Draws one state's bars, layer by layer."""
    at = [p.layer + 1 + APART * (2 * state - 1) for p in profiles]
    colour = COLOURS[state]
    for (low, high), width in BARS:
        ends = [[float(p.quantiles[state, LEVELS.index(q)]) for p in profiles] for q in (low, high)]
        panel.vlines(at, *ends, color=colour, linewidth=width)
    for which, text in ((0, name), (-1, None)):
        extremes = [float(p.quantiles[state, which]) for p in profiles]
        panel.plot(at, extremes, MARKERS[state], color=colour, markersize=3, label=text)
