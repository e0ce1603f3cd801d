"""Compiling with several recipes and comparing them, for the commands that do."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starquant_fx.errors import RecipeError, nearest
from starquant_fx.recipe import Recipe

FULL = "full precision"


def chosen_recipes(
    names: Sequence[str], without: Sequence[str], replace: Sequence[str]
) -> list[Any]:
    """The recipes to evaluate.

    Args:
        names: Recipes by name.
        without: Passes; each named recipe that has one is evaluated without it too.
        replace: Passes with options; each named recipe that has such a pass is evaluated with these changed too.

    Returns:
        The recipes, the named ones first.

    Raises:
        RecipeError: Unknown recipe or pass, or no recipe has the pass.
    """
    from starquant_fx.pass_base import parse_pass
    from starquant_fx.passes import REGISTRY
    from starquant_fx.recipes import get_recipe

    named = [get_recipe(name) for name in names]
    variants = []
    for name in without:
        if name not in REGISTRY:
            raise RecipeError(
                f"unknown pass {name!r}", expected=", ".join(REGISTRY), hint=nearest(name, REGISTRY)
            )
        variants.append((name, [r.without(name) for r in named if _has(r, name)]))
    variants += [
        (name, [r.replacing(parse_pass(text, REGISTRY, r.passes)) for r in named if _has(r, name)])
        for name, text in ((parse_pass(text, REGISTRY).name, text) for text in replace)
    ]
    for name, changed in variants:
        if not changed:
            raise RecipeError(
                f"no recipe has the pass {name!r}",
                where="--without, --replace",
                expected="a pass of one of them",
                got=", ".join(r.name for r in named),
            )
    return [*named, *(r for _, changed in variants for r in changed)]


def _has(recipe: Any, name: str) -> bool:
    return name in [one.name for one in recipe.passes]


def labelled(recipes: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any]:
    """Recipes by name.

    Args:
        recipes: Recipes with names of their own, or by names to tell them apart.

    Returns:
        Name -> recipe.

    Raises:
        RecipeError: Two recipes have one name, or one has that of the full-precision model.
    """
    pairs = (
        list(recipes.items()) if isinstance(recipes, Mapping) else [(r.name, r) for r in recipes]
    )
    seen = {FULL}
    for name, _ in pairs:
        if name in seen:
            raise RecipeError(
                "two models to compare have the same name",
                where=name,
                expected="a name for each recipe",
                got=", ".join(name for name, _ in pairs),
                hint="name each recipe once; from Python, give them by names of your own",
            )
        seen.add(name)
    return dict(pairs)


def seeded(recipes: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The recipes with every draw under a seed; what is compiled already stays as it is."""
    return {
        name: one.seeded(seed) if isinstance(one, Recipe) else one for name, one in recipes.items()
    }


def measure(
    model: Any,
    tokenizer: Any,
    recipes: Sequence[Any] | Mapping[str, Any],
    texts: list[str] | None,
    ids: Any,
    plan: Any,
    observe: Any = None,
    cache: Path | None = None,
    target: str = "auto",
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Compiles with every recipe and compares with full precision.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        recipes: What to compile; see ``labelled``. Compiled models are taken as they are.
        texts: Calibration texts, or None.
        ids: Held-out segments [N, L].
        plan: Masks.
        observe: As in ``compile``, with the recipe's name first.
        cache: As in ``compile``.
        target: As in ``compile``.

    Returns:
        The comparison, the costs by name, and the models by name.

    Raises:
        StarQuantError: The text does not fit the model (found before anything is compiled), or a recipe fails.
    """
    from starquant_fx.evaluation.comparison import compare

    chosen = labelled(recipes)
    models, costs = compiled_models(
        model, tokenizer, chosen, texts, ids, plan, observe, cache, target
    )
    return compare(models, ids, plan, FULL), costs, models


def compiled_models(
    model: Any,
    tokenizer: Any,
    recipes: Mapping[str, Any],
    texts: list[str] | None,
    ids: Any,
    plan: Any,
    observe: Any = None,
    cache: Path | None = None,
    target: str = "auto",
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The models of ``measure`` with the full-precision one first, and the costs, both by name."""
    from starquant_fx.api import compile as compile_model
    from starquant_fx.compiled import CompiledModel
    from starquant_fx.evaluation.checks import require_fit, require_segments
    from starquant_fx.evaluation.sheets import Cost

    require_segments(ids, least=2)
    require_fit({FULL: model}, ids, plan)
    models: dict[str, Any] = {FULL: model}
    costs: dict[str, Any] = {}
    for name, recipe in recipes.items():
        if observe is not None:
            observe(name, None)
        start = time.perf_counter()
        compiled = (
            recipe
            if isinstance(recipe, CompiledModel)
            else compile_model(
                model,
                recipe,
                calibration=texts,
                tokenizer=tokenizer,
                target=target,
                observe=observe,
                cache=cache,
            )
        )
        models[name] = compiled
        costs[name] = Cost(compiled.report.bytes_after / 1e6, time.perf_counter() - start)
        costs[FULL] = Cost(compiled.report.bytes_before / 1e6)
    return models, costs
