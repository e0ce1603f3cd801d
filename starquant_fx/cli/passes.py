"""``starquant-fx passes``."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from starquant_fx.cli.listing import attributes, entries, paragraphs, wrapped
from starquant_fx.errors import RecipeError, nearest

KEEPS = {
    "bitwise": "stays the same, bit by bit",
    "numerically": "stays the same up to rounding",
    "not": "changes",
}


def passes_command(
    name: Annotated[
        str | None, typer.Argument(help="Show one pass with its whole documentation.")
    ] = None,
) -> None:
    """List the rewriting passes; with a name, its options, what must run before it and what it preserves."""
    from starquant_fx.passes import REGISTRY

    if name is None:
        typer.echo(entries((key, paragraphs(one)[0]) for key, one in REGISTRY.items()))
        return
    if name not in REGISTRY:
        raise RecipeError(
            f"unknown pass {name!r}",
            where="passes NAME",
            expected=", ".join(REGISTRY),
            got=repr(name),
            hint=nearest(name, REGISTRY) or "`starquant-fx passes` lists them",
        )
    one = REGISTRY[name]
    typer.echo(f"{name}\n\n{wrapped(paragraphs(one))}")
    texts = attributes(one)
    options = [
        (f"{field.name} = {field.default}", texts.get(field.name, ""))
        for field in dataclasses.fields(one)  # type: ignore[arg-type]
    ]
    if options:
        typer.echo(f"\noptions:\n{entries(options, indent='  ')}")
    rows = [
        ("runs after", ", ".join(one.after) or "anything"),
        ("runs before", ", ".join(one.before) or "anything"),
        ("function", KEEPS[one.preserves.value]),
    ]
    typer.echo(f"\n{entries(rows)}")
