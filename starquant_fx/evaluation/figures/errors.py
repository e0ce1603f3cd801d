"""Errors across denoising steps (the paper's Fig. 3) and across layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from starquant_fx.evaluation.figures.style import Look, label, legend, looks, panels
from starquant_fx.evaluation.intervals import mean_interval
from starquant_fx.evaluation.trajectory import Trajectory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ERROR = "relative squared error"
STEP, LAYER = "denoising step", "layer"


def error_by_step(found: Mapping[str, Trajectory]) -> Figure:
    """Hidden-state error, flips and divergence at each denoising step, a line a model.

    Args:
        found: Name -> trajectory; an ablation, such as a recipe without TAC, is a model of its own.

    Returns:
        Three panels. Bands are 95 % intervals over prompts; steps that unmask nothing have no flips.
    """
    figure, axes = panels(1, 3)
    hidden, flips, apart = axes[0]
    for name, look in looks(found).items():
        one = found[name]
        committed = one.committed.sum(1).double()
        share = 1 - one.tokens.sum(1) / torch.where(committed > 0, committed, torch.nan)
        _line(hidden, name, one.hidden.mean(1), look)
        flips.plot(
            range(1, len(share) + 1),
            100 * share.numpy(),
            label=name,
            markersize=4,
            **look._asdict(),
        )
        _line(apart, name, 100 * one.apart, look)
    hidden.set_yscale("log")
    for panel in axes[0]:
        panel.xaxis.get_major_locator().set_params(integer=True)
    label(hidden, STEP, ERROR, "hidden states, from the same state")
    label(flips, STEP, "flipped commits (%)", "commits, from the same state")
    label(apart, STEP, "new positions that differ (%)", "each generating by itself")
    legend(figure, hidden)
    return figure


def error_by_layer(found: Mapping[str, Trajectory]) -> Figure:
    """Hidden-state and attention-output error after each layer, a line a model.

    Args:
        found: Name -> trajectory.

    Returns:
        Two panels, means over denoising steps; bands are 95 % intervals over prompts.
    """
    figure, axes = panels(1, 2)
    for name, look in looks(found).items():
        _line(axes[0, 0], name, found[name].hidden.mean(0), look)
        _line(axes[0, 1], name, found[name].attention.mean(0), look)
    for panel, title in zip(axes[0], ("hidden states", "attention outputs"), strict=True):
        panel.set_yscale("log")
        panel.xaxis.get_major_locator().set_params(integer=True)
        label(panel, LAYER, ERROR, title)
    legend(figure, axes[0, 0])
    return figure


def _line(axes: Any, name: str, values: Tensor, look: Look) -> None:
    """Draws means of values [points, prompts] with their intervals."""
    points = range(1, len(values) + 1)
    axes.plot(points, values.mean(1).numpy(), label=name, markersize=4, **look._asdict())
    if values.shape[1] > 1:
        bands = [mean_interval(row) for row in values]
        low, high = [b.low for b in bands], [b.high for b in bands]
        axes.fill_between(points, low, high, color=look.color, alpha=0.18, linewidth=0)
