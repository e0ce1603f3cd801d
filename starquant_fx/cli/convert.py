"""``starquant-fx convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from starquant_fx.cli.wording import written
from starquant_fx.errors import InputError, nearest

FORMATS = ("compressed-tensors",)


def convert_command(
    checkpoint: Annotated[
        Path, typer.Argument(help="Folder of `compile --save`.", show_default=False)
    ],
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder to write; it must be new, empty, or of the same format (--force).",
            show_default=False,
        ),
    ],
    to: Annotated[str, typer.Option("--to", help="The format: compressed-tensors.")] = FORMATS[0],
    force: Annotated[
        bool, typer.Option("--force", help="Replace a folder of the format that is there.")
    ] = False,
) -> None:
    """Write a packed checkpoint in a format that other programs load.

    Weights of rtn, gptq, smoothquant and awq in 4 or 8 bits can be written so; what cannot is refused.

    Example: starquant-fx convert llada-w4a16 llada-compressed --to compressed-tensors
    """
    from starquant_fx.checkpoint.compressed import convert

    if to not in FORMATS:
        raise InputError(
            f"unknown format {to!r}",
            where="--to",
            expected=" or ".join(FORMATS),
            got=repr(to),
            hint=nearest(to, FORMATS) or f"--to {FORMATS[0]}",
        )
    typer.echo(f"wrote {written(convert(checkpoint, folder, force=force))}")
