"""``starquant-fx export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from starquant_fx.cli.checkpoints import is_checkpoint, load_checkpoint
from starquant_fx.cli.options import (
    CacheFolder,
    CalibrationFile,
    Model,
    Seed,
    load,
)
from starquant_fx.errors import InputError

RECIPE = "star-w8a8"
SAMPLES, LENGTH = 3, 48
"""Real sequences to verify on, and tokens of each at most."""
CHARACTERS = 8
"""Of a text for each of those tokens: enough for the sequences, and few enough for the tokenizer."""


def export_command(
    model: Model,
    folder: Annotated[
        Path, typer.Argument(help="Folder to write; it must be new, empty, or an export (--force).")
    ],
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", "-r", help=f"Compile with this recipe. Default: {RECIPE}."),
    ] = None,
    artifact: Annotated[
        Path | None,
        typer.Option(
            "--artifact", "-a", help="Export this artifact of `compile --output` instead."
        ),
    ] = None,
    flavour: Annotated[
        str,
        typer.Option(
            "--flavour",
            "--flavor",
            "-f",
            help="integer: products of bytes, fast in onnxruntime; qdq: QuantizeLinear and DequantizeLinear, right in "
            "every runtime; nbits: only weights are quantized.",
        ),
    ] = "integer",
    head: Annotated[
        str,
        typer.Option(
            "--head",
            help="logits of all positions; row-logits of those in an input `rows`; tokens: the most probable token "
            "there and its probability, so that logits never leave the graph.",
        ),
    ] = "row-logits",
    opset: Annotated[int, typer.Option("--opset", help="21 to 23.")] = 21,
    attention_mask: Annotated[
        bool,
        typer.Option(
            "--attention-mask", help="Take a padding mask, for prompts of several lengths."
        ),
    ] = False,
    calibration: CalibrationFile = None,
    cache: CacheFolder = None,
    seed: Seed = 0,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify",
            help="Compare what was written with the reference target, and look at what onnxruntime runs.",
        ),
    ] = True,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an export that is there.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the report to this JSON file.")
    ] = None,
) -> None:
    """Compile MODEL, take an artifact of it or a packed checkpoint, and write an ONNX folder that runs without PyTorch.

    Example: starquant-fx export llada-tiny llada-onnx --recipe star-w8a8
    """
    from rich.console import Console

    from starquant_fx.api import compile as compile_model
    from starquant_fx.artifact import load_artifact
    from starquant_fx.evaluation.corpus import calibration_texts
    from starquant_fx.export.api import export_onnx
    from starquant_fx.export.checks import check_arguments
    from starquant_fx.export.folder import check_folder
    from starquant_fx.export.sheet import sheet
    from starquant_fx.files import check_destination, write_atomically
    from starquant_fx.model_facts import maximum_length

    console = Console()
    check_arguments(flavour, head, opset, verify)
    check_folder(folder, force)
    if json_file is not None:
        check_destination(json_file, ".json")
    packed = is_checkpoint(model)
    chosen: Any = None if packed else _recipe(recipe, artifact, seed)
    texts = calibration_texts(model, calibration)
    if packed:
        given = {"--recipe": recipe, "--artifact": artifact, "--cache": cache, "--seed": seed}
        compiled, tokenizer = load_checkpoint(model, "reference", None, given)
    else:
        loaded, tokenizer = load(model)
        if artifact is not None:
            compiled = load_artifact(loaded, artifact, target="reference")
        else:
            compiled = compile_model(
                loaded,
                chosen,
                calibration=texts,
                tokenizer=tokenizer,
                target="reference",
                cache=cache,
            )
    report = export_onnx(
        compiled,
        folder,
        flavour=flavour,
        head=head,
        opset=opset,
        attention_mask=attention_mask,
        tokenizer=tokenizer,
        samples=_samples(tokenizer, texts, maximum_length(compiled)),
        verify=verify,
        force=force,
    )
    console.print(sheet(report))
    if json_file is not None:
        write_atomically(json_file, json.dumps(report.to_dict(), indent=1))
        console.print(f"wrote {json_file}")
    if report.verification is not None and report.verification.doubts(report.flavour):
        raise typer.Exit(1)


def _recipe(recipe: str | None, artifact: Path | None, seed: int) -> Any:
    """The recipe, checked before anything is loaded; nobody reads it where there is an artifact."""
    from starquant_fx.recipes import get_recipe

    if artifact is not None:
        if recipe is not None:
            raise InputError(
                "--recipe and --artifact exclude each other",
                where="--artifact",
                expected="one of them",
                got="both",
                hint="an artifact holds its own recipe",
            )
        if not artifact.is_file():
            raise InputError(
                "there is no such artifact",
                where="--artifact",
                expected="a file that compile --output wrote",
                got=str(artifact),
                hint="check the path",
            )
    return get_recipe(recipe or RECIPE).seeded(seed)


def _samples(tokenizer: Any, texts: Any, longest: int | None) -> Any:
    """The first tokens of some texts [N, L]; None without texts or a tokenizer."""
    import torch

    if tokenizer is None or not texts:
        return None
    length = LENGTH if longest is None else min(LENGTH, longest)
    rows: list[list[int]] = []
    for text in texts[:64]:
        ids = tokenizer(text[: CHARACTERS * length], add_special_tokens=False)["input_ids"]
        rows += [ids[at : at + length] for at in range(0, len(ids) - length + 1, length)]
    return torch.tensor(rows[:SAMPLES]) if rows else None
