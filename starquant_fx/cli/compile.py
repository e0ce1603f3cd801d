"""``starquant-fx compile``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from starquant_fx.cli.options import (
    CacheFolder,
    CalibrationFile,
    Device,
    Model,
    RecipeName,
    Seed,
    Target,
    check_place,
    load,
)
from starquant_fx.cli.streaming import check_options, compile_in_parts
from starquant_fx.cli.wording import written


def compile_command(
    model: Model,
    destination: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DST]",
            help="Compile block by block to a packed checkpoint in this folder, for models larger than memory. The "
            "same command goes on where it was stopped.",
            show_default=False,
        ),
    ] = None,
    recipe: RecipeName = "star-w4a4",
    calibration: CalibrationFile = None,
    samples: Annotated[
        int | None,
        typer.Option("--samples", min=1, help="Calibration sequences. Default: the recipe's."),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option("--length", min=1, help="Tokens of each of them. Default: the recipe's."),
    ] = None,
    memory_limit: Annotated[
        str | None,
        typer.Option(
            "--memory-limit", help="With DST: memory that the run may take, such as 8GiB."
        ),
    ] = None,
    target: Target = "auto",
    device: Device = None,
    seed: Seed = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write the artifact (packed weights, bases, corrections) to this "
            ".safetensors file; `generate --artifact`, or in Python load_artifact of the module starquant_fx, binds "
            "it to the model again.",
        ),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            "--save",
            help="Write a packed checkpoint to this folder, which `generate DIR`, or in Python load of the module "
            "starquant_fx, loads without MODEL.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Let --save or DST replace a checkpoint that is there.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write the report to this JSON file.")
    ] = None,
    cache: CacheFolder = None,
    print_between_passes: Annotated[
        bool, typer.Option("--print-between-passes", help="Print the graph after every pass.")
    ] = False,
) -> None:
    """Compile MODEL with a recipe; print what each pass did and a row for every site.

    Example: starquant-fx compile llada-tiny --recipe star-w4a4 --output llada.safetensors

    Example: starquant-fx compile GSAI-ML/LLaDA-8B-Instruct llada-w4a4 --memory-limit 8GiB
    """
    from rich.console import Console

    from starquant_fx.api import compile as compile_model
    from starquant_fx.artifact import SUFFIX, save_artifact
    from starquant_fx.checkpoint.checks import check_kind
    from starquant_fx.checkpoint.format import CHECKPOINT
    from starquant_fx.evaluation.corpus import calibration_texts
    from starquant_fx.files import check_destination, write_atomically
    from starquant_fx.folders.writing import check_folder
    from starquant_fx.recipes import get_recipe

    console = Console()
    whole: dict[str, object] = {"--output": output, "--save": save, "--report": report}
    whole |= {"--cache": cache, "--print-between-passes": print_between_passes}
    check_options(destination, whole, memory_limit)
    chosen = get_recipe(recipe).seeded(seed)
    usual = chosen.calibration
    calibrated = dataclasses.replace(
        usual, samples=samples or usual.samples, length=length or usual.length
    )
    chosen = dataclasses.replace(chosen, calibration=calibrated)
    for path, suffix in ((output, SUFFIX), (report, ".json")):
        if path is not None:
            check_destination(path, suffix)
    if save is not None:
        check_folder(save, CHECKPOINT, force)
    check_place(target, device)
    texts = calibration_texts(model, calibration)
    if destination is not None:
        compile_in_parts(
            model,
            destination,
            chosen,
            texts,
            target=target,
            device=device,
            memory_limit=memory_limit,
            force=force,
        )
        return
    loaded, tokenizer = load(model, device)
    if save is not None:
        check_kind(loaded, loaded.config)

    def observe(text: str, program: Any) -> None:
        print_pass(console, text, program)
        if print_between_passes:
            console.print(str(program.graph), markup=False, highlight=False)

    compiled = compile_model(
        loaded,
        chosen,
        calibration=texts,
        tokenizer=tokenizer,
        target=target,
        observe=observe,
        cache=cache,
    )
    console.print(compiled.report)
    if output is not None:
        console.print(f"wrote {save_artifact(compiled, output)}")
    if save is not None:
        folder = compiled.save(save, tokenizer=tokenizer, force=force)
        console.print(f"wrote {written(folder)}")
    if output is None and save is None:
        console.print(
            "the compiled model was not kept; --save DIR or --output FILE.safetensors keeps it"
        )
    if report is not None:
        write_atomically(report, json.dumps(compiled.report.to_dict(), indent=1))
        console.print(f"wrote {report}")


def print_pass(console: Any, text: str, program: Any) -> None:
    """Prints one line about the pass that has just run, or about the capture before the first."""
    if not program.records:
        console.print(f"  {text:<46} {len(program.graph.nodes):14d} nodes", highlight=False)
        return
    record = program.records[-1]
    change = f"{record.nodes_before:5d} -> {record.nodes_after:5d} nodes"
    console.print(f"  {text:<46} {change}  {record.seconds:6.1f} s", markup=False, highlight=False)
