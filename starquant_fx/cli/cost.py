"""``starquant-fx cost``: what a model costs before it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from starquant_fx.cli.checkpoints import recipe_of
from starquant_fx.errors import InputError
from starquant_fx.sampling.arguments import choice

RECIPE = "star-w4a4"
WIDTH = 120
"""Columns of tables that go into a file or a pipe."""


def cost_command(
    model: Annotated[
        str,
        typer.Argument(
            help="LLaDA-8B, Dream-7B, 12x1024 or 2x4096 by their sizes, llada-tiny, dream-tiny, a folder or its "
            "config.json, also of `compile --save`, which has its recipe, or a hub id.",
            metavar="MODEL",
        ),
    ],
    recipe: Annotated[
        str | None, typer.Option("--recipe", "-r", help=f"As of `compile`. Default: {RECIPE}.")
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            "--target",
            "-t",
            help="Whose graph is counted: reference, cpu or triton. auto: triton if the first chip is a GPU, "
            "else cpu.",
        ),
    ] = "auto",
    chip: Annotated[
        list[str] | None,
        typer.Option(
            "--chip", help="A40, A100, H100, H200, cpu (one core) or cpu-2. May be repeated."
        ),
    ] = None,
    tokens: Annotated[
        list[str] | None,
        typer.Option("--tokens", help="Sequences x tokens, such as 4x1024. May be repeated."),
    ] = None,
    by: Annotated[
        str, typer.Option("--by", help="Sum nodes by node, role, site, pass or operator.")
    ] = "role",
    logits: Annotated[
        str,
        typer.Option("--logits", help="all, or masked: of the masked rows only, in both graphs."),
    ] = "all",
    masked: Annotated[
        float, typer.Option("--masked", min=0.0, max=1.0, help="Share of masked positions.")
    ] = 0.5,
    eager: Annotated[
        bool,
        typer.Option(
            "--eager",
            help="Every call is a kernel of its own and launched from Python: no fusion, no graph.",
        ),
    ] = False,
    rate: Annotated[
        list[str] | None,
        typer.Option(
            "--rate",
            help="Another rate for all chips, in 10^12 a second: int8=1500, bf16=, fp32=, elementwise=, bandwidth=.",
        ),
    ] = None,
    layers: Annotated[
        int | None, typer.Option("--layers", min=1, help="Count so many layers instead.")
    ] = None,
    symbolic: Annotated[
        bool, typer.Option("--symbolic", help="Print totals as polynomials in B, L and R too.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--json", help="Write everything to this JSON file.")
    ] = None,
) -> None:
    """Predict operations, bytes, launches, time and memory of MODEL, in bf16 and with a recipe, without its weights.

    Example: starquant-fx cost LLaDA-8B --recipe star-w4a4 --chip H200 --chip A40 --tokens 1x1024 --tokens 4x1024
    """
    from rich.console import Console

    from starquant_fx.cost import table
    from starquant_fx.cost.chips import chip_named
    from starquant_fx.cost.roofline import GROUPS
    from starquant_fx.cost.shapes import parse_shape
    from starquant_fx.cost.subject import costs
    from starquant_fx.files import check_destination, write_atomically
    from starquant_fx.models.named import named_model
    from starquant_fx.progress import working
    from starquant_fx.recipes import get_recipe

    choice("--by", by, GROUPS)
    choice("--logits", logits, ("all", "masked"))
    share = masked if logits == "masked" else None
    shapes = [parse_shape(text).with_share(share) for text in tokens or ["1x1024"]]
    chips = [chip_named(name, _rates(rate or [])) for name in chip or ["H200"]]
    named = named_model(model)
    chosen = recipe_of(named, {"--recipe": recipe}) or get_recipe(recipe or RECIPE)
    if output is not None:
        check_destination(output, ".json")
    if target == "auto":
        target = "triton" if chips[0].captures else "cpu"
    with working(f"tracing {model} and running {chosen.name}; a minute or more for 32 layers"):
        found = costs(named, chosen, target, layers=layers, masked_rows=logits == "masked")
    asked = table.Asked(chips, shapes, by, not eager)
    console = Console()
    if not console.is_terminal or console.width < WIDTH:
        console = Console(
            width=WIDTH
        )  # a narrow terminal wraps lines: cut numbers would say nothing
    console.print(table.predictions(found, asked))
    console.print(table.groups(found, asked))
    if symbolic:
        console.print(table.symbols(found))
    for text in table.sentences(found, asked):
        console.print(text, markup=False, highlight=False)
    if output is not None:
        write_atomically(output, json.dumps(table.as_json(found, asked), indent=1))
        console.print(f"wrote {output}", markup=False, highlight=False)


def _rates(texts: list[str]) -> dict[str, float]:
    """Reads ``unit=number`` pairs.

    Raises:
        InputError: One is none.
    """
    found = {}
    for text in texts:
        unit, _, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise InputError(
                "this is no rate",
                where="--rate",
                expected="unit=number above 0, such as int8=1500",
                got=repr(text),
            )
        found[unit] = value
    return found
