"""The figures of ``starquant-fx evaluate --figures``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SEGMENTS = 8
"""Segments whose activations are drawn."""
MIDDLE = 0.5
"""They are drawn at the mask ratio nearest to this."""


def write_figures(
    folder: Path,
    model: Any,
    recipes: Mapping[str, Any],
    ids: Any,
    comparisons: Sequence[Any],
    found: Mapping[str, Any],
) -> list[Path]:
    """Draws and writes all figures as PNG and SVG.

    Args:
        folder: As ``require_figures`` accepted it.
        model: The full-precision model.
        recipes: By name.
        ids: Held-out segments [N, L].
        comparisons: One a seed.
        found: Trajectories of the first seed, by name.

    Returns:
        The files.
    """
    from starquant_fx.evaluation import figures

    profiles = _profiles(model, next(iter(recipes.values())), ids, comparisons[0].plan)
    seeds = len(comparisons)
    bars = f"mean and standard deviation of {seeds} seeds" if seeds > 1 else "95 % intervals"
    return figures.save(
        {
            "activations_by_layer": figures.activations_by_layer(profiles),
            "activations_by_channel": figures.activations_by_channel(profiles),
            "error_by_step": figures.error_by_step(found),
            "error_by_layer": figures.error_by_layer(found),
            "gap_by_bits": figures.gap_by_bits(_points(recipes, comparisons), bars),
        },
        folder,
    )


def _profiles(model: Any, recipe: Any, ids: Any, plan: Any) -> Any:
    from starquant_fx.capture import capture
    from starquant_fx.evaluation.masks import masked_batches
    from starquant_fx.evaluation.profiles import activation_profiles
    from starquant_fx.pass_manager import run_passes
    from starquant_fx.passes import AssignRoles, Canonicalize
    from starquant_fx.sampling.arguments import token_id

    mask_id = token_id(model, "mask_token_id", None, "mask_token_id")
    program = capture(model, recipe, mask_token_id=mask_id)
    run_passes(program, (Canonicalize(), AssignRoles()))
    which = min(range(len(plan.ratios)), key=lambda i: abs(plan.ratios[i] - MIDDLE))
    masks = plan.at_ratio[which : which + 1, :SEGMENTS]
    return activation_profiles(program, masked_batches(ids[:SEGMENTS], masks, mask_id, batch=1))


def _points(recipes: Mapping[str, Any], comparisons: Sequence[Any]) -> list[Any]:
    from starquant_fx.evaluation.figures import Point
    from starquant_fx.evaluation.intervals import Interval
    from starquant_fx.evaluation.sheets import spread

    points = []
    for name, recipe in recipes.items():
        gap = comparisons[0].gap(name)
        if len(comparisons) > 1:
            mean, deviation = spread(c.gap(name).mean for c in comparisons)
            gap = Interval(mean, mean - deviation, mean + deviation)
        bits = recipe.weight_bits, recipe.activation_bits
        points.append(Point(recipe.method, bits, gap))
    return points


def require_figures(folder: Path) -> None:
    """Refuses, before any work, a folder that cannot be written to, or a missing matplotlib."""
    from starquant_fx.evaluation.figures import check_folder, require_matplotlib

    require_matplotlib()
    check_folder(folder)
