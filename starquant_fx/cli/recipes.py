"""``starquant-fx recipes``: the methods, their sources, and what can be added to them."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from starquant_fx.cli.listing import entries, paragraphs, wrapped
from starquant_fx.errors import InputError


def recipes_command(
    name: Annotated[
        str | None, typer.Argument(help="Only this method or recipe, with its passes.")
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print NAME as the JSON that --recipe FILE.json takes: passes, bits of single sites, calibration.",
        ),
    ] = False,
) -> None:
    """List the methods; with a name, its source, our reading of it, and its passes.

    A recipe is <method>-w<bits>a<bits>, bits 2..8 or 16, for example quarot-w4a8; quarot+center-w4a4 adds an extra.
    """
    from starquant_fx.methods import EXTRAS, METHODS
    from starquant_fx.recipes import get_recipe, split_method

    if as_json:
        if name is None:
            raise InputError("--json prints one recipe", where="NAME", expected="a recipe's name")
        typer.echo(json.dumps(get_recipe(name).to_dict(), indent=2))
        return
    if name is None:
        typer.echo(entries((method, paragraphs(build)[0]) for method, build in METHODS.items()))
        typer.echo("\nextras, added to a method's name:")
        rows = ((f"+{extra}", ", ".join(map(str, passes))) for extra, passes in EXTRAS.items())
        typer.echo(entries(rows, indent="  "))
        return
    chosen = get_recipe(name if "-w" in name or name.endswith(".json") else f"{name}-w4a4")
    method, _ = split_method(chosen.method.partition("(")[0])
    if method is not None:  # a file's can have any name
        typer.echo(wrapped(paragraphs(METHODS[method])) + "\n")
    typer.echo(f"{chosen.name}:")
    for one in chosen.passes:
        typer.echo(f"  {one}")
