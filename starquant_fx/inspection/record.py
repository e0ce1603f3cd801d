"""Recordings of a model that is compiled, and of one that is only known by its configuration."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from starquant_fx.api import compile as compile_model
from starquant_fx.capture import capture
from starquant_fx.checkpoint.reading import load
from starquant_fx.cost.retrace import retrace
from starquant_fx.cost.shapes import Shape
from starquant_fx.inspection.recorder import Recorder
from starquant_fx.inspection.recording import Recording
from starquant_fx.lowering import TARGETS, choose_target, lower
from starquant_fx.model_facts import mask_token_of
from starquant_fx.models.named import NamedModel, named_model
from starquant_fx.models.weightless import fake_model
from starquant_fx.pass_manager import run_passes
from starquant_fx.recipe import Recipe
from starquant_fx.recipes import get_recipe

TOKENS = Shape(1, 1024)
"""The forward that is counted."""


def record_compilation(
    name: str,
    model: torch.nn.Module,
    recipe: str | Recipe,
    *,
    shape: Shape = TOKENS,
    **options: Any,
) -> Recording:
    """Compiles a model and records every stage, errors of sites among it.

    Args:
        name: What the model is called.
        model: The model.
        recipe: The recipe.
        shape: The forward whose operations and bytes are counted.
        **options: As of ``starquant_fx.compile``.

    Returns:
        The recording.
    """
    recorder = Recorder(name, shape)
    compile_model(model, recipe, observe=recorder, **options)
    return recorder.recording()


def record_checkpoint(name: str, *, shape: Shape = TOKENS) -> Recording:
    """Loads a packed checkpoint and records every stage of its graph; errors of sites are those of its report.

    Args:
        name: The folder, or its hub id.
        shape: The forward whose operations and bytes are counted.

    Returns:
        The recording.

    Raises:
        StarQuantError: It cannot be loaded.
    """
    recorder = Recorder(name, shape)
    compiled = load(name, target="reference", observe=recorder)
    found = recorder.recording()
    sites = dict(found.sites)
    for row in compiled.report.sites:
        if (site := sites.get(row.site)) is not None:
            known = dataclasses.replace(site, error=row.error, leakage=row.leakage)
            sites[row.site] = known
    return dataclasses.replace(found, sites=sites)


def record_config(
    name: str | NamedModel,
    recipe: str | Recipe,
    *,
    shape: Shape = TOKENS,
    layers: int | None = None,
    target: str | None = None,
) -> Recording:
    """Captures and rewrites a model from its configuration alone: no weights, no errors.

    Args:
        name: As of ``starquant_fx.models.weightless.fake_model``; a packed checkpoint's recipe is not looked at.
        recipe: A recipe or its name.
        shape: The forward whose operations and bytes are counted.
        layers: Number of layers instead of the configuration's.
        target: Adds what this target makes of the graph as the last stage; None = no such stage.

    Returns:
        The recording.

    Raises:
        InputError: There is no such model.
        LoweringError: There is no such target.
        StarQuantError: The model cannot be captured, or the recipe does not fit it.
    """
    resolved = target
    if target is not None and target not in TARGETS:
        resolved = choose_target(target, torch.device("cpu"))
    chosen = get_recipe(recipe)
    named = named_model(name)
    model = fake_model(named, layers)
    told = "" if layers is None else f", {layers} layer{'s' if layers > 1 else ''} only"
    recorder = Recorder(f"{named.name}{told}", shape)
    program = capture(model, chosen, mask_token_id=mask_token_of(model))
    run_passes(program, chosen.passes, recorder)
    if resolved is not None:
        with program.fake_mode:
            lowered = lower(program, resolved)
        recorder.lowered(retrace(lowered, program.fake_mode), program, resolved)
    return recorder.recording()
