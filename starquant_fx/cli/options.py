"""Options and loading that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from starquant_fx.errors import InputError
from starquant_fx.recipe import LARGEST_SEED

Model = Annotated[
    str,
    typer.Argument(
        help="llada-tiny, dream-tiny, a folder with a published checkpoint, or a hub id.",
        metavar="MODEL",
    ),
]
RecipeName = Annotated[
    str,
    typer.Option(
        "--recipe",
        "-r",
        help="<method>-w<bits>a<bits>, bits 2..8 or 16; `starquant-fx recipes` lists the methods. Or a file of one: "
        "`starquant-fx recipes NAME --json`.",
    ),
]
CalibrationFile = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        "-c",
        help='Text to calibrate on: .txt, or .jsonl with a field "text" or WinoGrande\'s rows, also .gz or .xz. '
        "Default: the shipped excerpt for shipped models, else the model's own generations.",
    ),
]
Target = Annotated[str, typer.Option("--target", "-t", help="auto, reference, cpu or triton.")]
Device = Annotated[
    str | None,
    typer.Option("--device", help="Where everything is computed, such as cuda. Default: cpu."),
]
CacheFolder = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        help="Folder that keeps calibration states and fitted bases; a run that was killed takes them from there.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Seed of every draw.")]


def check_place(target: str, device: str | None) -> None:
    """Refuses, before anything is loaded, a device or a target that this machine does not have.

    Raises:
        ConfigError: There is no such device.
        LoweringError: There is no such target, or it does not run there.
    """
    from starquant_fx.devices import usable_device
    from starquant_fx.errors import LoweringError
    from starquant_fx.lowering import choose_target, runs_on

    place = usable_device(device)
    chosen = choose_target(target, place)
    if not runs_on(chosen, place):
        raise LoweringError(
            f"the target {chosen} does not run on this device",
            where="target",
            expected="the CPU, or another target",
            got=f"--device {place}",
            hint="--target auto takes what runs",
        )


def load(model: str, device: str | None = None) -> tuple[Any, Any]:
    """Loads model and tokenizer."""
    from starquant_fx.models.loading import from_pretrained

    return from_pretrained(model, device=device)


def need_tokenizer(tokenizer: Any, model: str) -> Any:
    """Returns the tokenizer, or raises an InputError if the model's folder has none."""
    if tokenizer is None:
        raise InputError(
            "this needs a tokenizer",
            where=model,
            expected="tokenizer.json beside the weights",
            got="none",
            hint="copy the tokenizer files of the published model into the folder",
        )
    return tokenizer
