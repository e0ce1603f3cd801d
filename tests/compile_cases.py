"""Small compilations that several tests share."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from torch import Tensor

import starquant_fx
from starquant_fx.compiled import CompiledModel
from starquant_fx.passes import FitSgat
from starquant_fx.recipe import CalibrationOptions, Recipe
from starquant_fx.recipes import get_recipe
from tests.small_models import MASK, masked_ids, model

SMALL = CalibrationOptions(samples=8, length=16, rollout_steps=1)


CLOSE = 5e-3
"""Share of the energy of the logits that eight bits may cost a random model; it costs up to 0.0033."""


def small(name: str) -> Recipe:
    """A named recipe with little calibration and a short fit."""
    recipe = dataclasses.replace(get_recipe(name), calibration=SMALL)
    passes = tuple(
        dataclasses.replace(p, epochs=2, batch=64) if isinstance(p, FitSgat) else p
        for p in recipe.passes
    )
    return dataclasses.replace(recipe, passes=passes)


def texts(kind: str) -> Tensor:
    return masked_ids(kind, (8, 16), 0.0, seed=1)


def fresh(kind: str, recipe: str | Recipe, **arguments: Any) -> CompiledModel:
    chosen = small(recipe) if isinstance(recipe, str) else recipe
    named = {"calibration": texts(kind), "mask_token_id": MASK[kind], **arguments}
    return starquant_fx.compile(model(kind), chosen, **named)


@functools.cache
def compiled(kind: str, name: str) -> CompiledModel:
    return fresh(kind, name)


def made(one: CompiledModel) -> dict[str, Tensor]:
    return {n: t for n, t in one.program.tensors().items() if n.startswith("starquant.")}
