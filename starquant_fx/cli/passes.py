"""``starquant-fx passes``."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Annotated

import typer

from starquant_fx.errors import RecipeError, nearest


def passes_command(
    name: Annotated[
        str | None, typer.Argument(help="Show one pass with its whole documentation.")
    ] = None,
) -> None:
    """List the rewriting passes: what each does, its options, what must run before it, what it preserves."""
    from rich.console import Console
    from rich.table import Table

    from starquant_fx.passes import REGISTRY

    console = Console()
    if name is not None:
        if name not in REGISTRY:
            raise RecipeError(
                f"unknown pass {name!r}",
                where="passes NAME",
                expected=", ".join(REGISTRY),
                got=repr(name),
                hint=nearest(name, REGISTRY) or "`starquant-fx passes` lists them",
            )
        one = REGISTRY[name]
        console.print(f"{name}\n\n{inspect.getdoc(one)}", markup=False, highlight=False)
        console.print(
            f"\nafter: {', '.join(one.after) or '-'}\npreserves the function: {one.preserves.value}"
        )
        return
    table = Table()
    for column in ("pass", "what it does", "options", "after", "preserves"):
        table.add_column(column)
    for key, one in REGISTRY.items():
        options = ", ".join(f"{f.name}={f.default}" for f in dataclasses.fields(one))  # type: ignore[arg-type]
        summary = (inspect.getdoc(one) or "").splitlines()[0]
        table.add_row(key, summary, options, ", ".join(one.after), one.preserves.value)
    console.print(table)
