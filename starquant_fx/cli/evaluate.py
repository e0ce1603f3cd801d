"""``starquant-fx evaluate``: recipes against full precision on held-out text, same masks for all."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from starquant_fx.cli.options import (
    CalibrationFile,
    Model,
    calibration_texts,
    load,
    need_tokenizer,
    read_text,
)
from starquant_fx.errors import RecipeError, nearest

FULL = "full precision"


def evaluate_command(
    model: Model,
    recipe: Annotated[
        list[str] | None, typer.Option("--recipe", "-r", help="Recipe to evaluate, repeatable.")
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option("--text", help="Held-out text file. Default: the shipped excerpt of --split."),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="Shipped excerpt: validation or test.")
    ] = "validation",
    calibration: CalibrationFile = None,
    segments: Annotated[int, typer.Option("--segments", help="Segments at most.")] = 64,
    length: Annotated[int, typer.Option("--length", help="Tokens a segment.")] = 256,
    draws: Annotated[
        int, typer.Option("--draws", help="Monte-Carlo draws a segment for the NELBO.")
    ] = 4,
    seed: Annotated[
        list[int] | None, typer.Option("--seed", help="Seed of calibration and masks, repeatable.")
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without", help="Also each recipe that has this pass without it (an ablation)."
        ),
    ] = None,
    replace: Annotated[
        list[str] | None,
        typer.Option(
            "--replace",
            help="Also each recipe that has this pass with other options, for example 'insert-sgat{size=64,rank=0}'.",
        ),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the tables as Markdown.")
    ] = False,
) -> None:
    """Measure recipes: NELBO per token and its gap to full precision, agreement and KL on masked tokens.

    Example: starquant-fx evaluate llada-tiny -r rtn-w4a4 -r star-w4a4 --without insert-tac --seed 0 --seed 1
    """
    from rich.console import Console

    from starquant_fx.evaluation.masks import mask_plan
    from starquant_fx.evaluation.table import to_markdown, to_table
    from starquant_fx.evaluation.text import excerpt
    from starquant_fx.evaluation.text import segments as cut
    from starquant_fx.pass_base import parse_pass
    from starquant_fx.passes import REGISTRY
    from starquant_fx.recipes import get_recipe

    console = Console()
    named = [get_recipe(name) for name in (recipe or ["rtn-w4a4", "star-w4a4"])]
    recipes = list(named)
    for name in without or []:
        if name not in REGISTRY:
            raise RecipeError(
                f"unknown pass {name!r}", expected=", ".join(REGISTRY), hint=nearest(name, REGISTRY)
            )
        recipes += [r.without(name) for r in named if name in [p.name for p in r.passes]]
    for one in [parse_pass(text, REGISTRY) for text in replace or []]:
        recipes += [r.replacing(one) for r in named if one.name in [p.name for p in r.passes]]
    held_out = excerpt(split) if text is None else read_text(text)
    texts = calibration_texts(model, calibration)
    loaded, tokenizer = load(model)
    ids = cut(held_out, need_tokenizer(tokenizer, model), length, segments)
    for drawn in seed or [0]:
        plan = mask_plan(len(ids), ids.shape[1], seed=drawn, draws=draws)
        comparison, costs, _ = measure(
            loaded, tokenizer, [r.seeded(drawn) for r in recipes], texts, ids, plan
        )
        typer.echo(f"\n{model}, seed {drawn}, {len(ids)} segments of {length} tokens\n")
        if markdown:
            typer.echo(to_markdown(comparison, costs))
        else:
            console.print(to_table(comparison, costs))


def measure(
    model: Any,
    tokenizer: Any,
    recipes: list[Any],
    texts: list[str] | None,
    ids: Any,
    plan: Any,
    observe: Any = None,
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Compiles with every recipe and compares with full precision.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        recipes: What to compile.
        texts: Calibration texts, or None.
        ids: Held-out segments [N, L].
        plan: Masks.
        observe: As in ``compile``, with the recipe's name first.

    Returns:
        The comparison, the costs by name, and the models by name.
    """
    from starquant_fx.api import compile as compile_model
    from starquant_fx.evaluation.comparison import compare
    from starquant_fx.evaluation.table import Cost

    models: dict[str, Any] = {FULL: model}
    costs: dict[str, Any] = {}
    for recipe in recipes:
        if observe is not None:
            observe(recipe.name, None)
        start = time.perf_counter()
        compiled = compile_model(
            model, recipe, calibration=texts, tokenizer=tokenizer, observe=observe
        )
        models[recipe.name] = compiled
        costs[recipe.name] = Cost(compiled.report.bytes_after / 1e6, time.perf_counter() - start)
        costs[FULL] = Cost(compiled.report.bytes_before / 1e6)
    return compare(models, ids, plan, FULL), costs, models
