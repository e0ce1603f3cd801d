"""``starquant-fx inspect``: a recorded compilation on the terminal and in files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from starquant_fx.cli.inspect_views import CHIP
from starquant_fx.cli.options import CacheFolder, CalibrationFile
from starquant_fx.cli.recording import RECIPE, SEED, TOKENS, Source
from starquant_fx.recipe import LARGEST_SEED


def inspect_command(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Compile this model and record it: llada-tiny, dream-tiny, a folder or a hub id. Or record what "
            "`compile --save` wrote.",
            metavar="[MODEL]",
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            help="Capture and rewrite a model from its configuration alone, without weights: llada-8b, dream-7b, a "
            "config.json or its folder, also of `compile --save`, which has its recipe, or a hub id.",
        ),
    ] = None,
    recording: Annotated[
        Path | None,
        typer.Option("--recording", help="Read what --json wrote instead of compiling."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", "-r", help=f"As of `compile`. Default: {RECIPE}."),
    ] = None,
    stage: Annotated[
        str | None, typer.Option("--stage", help="Show the graph after this pass, or `capture`.")
    ] = None,
    diff: Annotated[
        str | None,
        typer.Option("--diff", help="Show what changed between two stages: insert-tac..fuse."),
    ] = None,
    site: Annotated[
        str | None,
        typer.Option("--site", help="Show one site, by the end of a linear's name: 3.o_proj."),
    ] = None,
    sites: Annotated[bool, typer.Option("--sites", help="Show a table of all sites.")] = False,
    sort: Annotated[
        str | None,
        typer.Option(
            "--sort", help="Show all sites by name, error, sqnr, bytes, flops or bits, worst first."
        ),
    ] = None,
    passes: Annotated[bool, typer.Option("--passes", help="Show what every pass did.")] = False,
    analysis: Annotated[
        list[str] | None,
        typer.Option(
            "--analysis",
            help="critical-path, precision, high-precision, boundaries, or all. May be repeated.",
        ),
    ] = None,
    chip: Annotated[
        str | None,
        typer.Option(
            "--chip", help=f"Whose time the critical path is predicted on. Default: {CHIP}."
        ),
    ] = None,
    every: Annotated[
        bool,
        typer.Option("--all", help="Show or draw every layer and node: alike ones are not folded."),
    ] = False,
    tokens: Annotated[
        str | None,
        typer.Option(
            "--tokens",
            help=f"The forward that is counted: sequences x tokens. Default: {TOKENS}.",
        ),
    ] = None,
    layers: Annotated[
        int | None, typer.Option("--layers", min=1, help="Of --config: so many layers instead.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "-t",
            help="Of --config: add what reference, cpu or triton makes of the graph as the last stage.",
        ),
    ] = None,
    calibration: CalibrationFile = None,
    cache: CacheFolder = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", min=0, max=LARGEST_SEED, help=f"Seed of every draw. Default: {SEED}."
        ),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Write the recording; Model Explorer opens it, too."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write one page that works without a network.")
    ] = None,
    dot: Annotated[
        Path | None, typer.Option("--dot", help="Write the stage (--stage) as Graphviz source.")
    ] = None,
    svg: Annotated[
        Path | None, typer.Option("--svg", help="Write the stage as a picture; needs Graphviz.")
    ] = None,
    module: Annotated[
        str | None,
        typer.Option("--module", help="Of --dot and --svg: draw this module's nodes only."),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            "--figure", help="Write one attention block before and after, as .svg or .dot."
        ),
    ] = None,
    block: Annotated[
        str | None,
        typer.Option(
            "--block",
            help="Of --figure: draw the attention block in this module instead of the first.",
        ),
    ] = None,
    overlays: Annotated[
        Path | None,
        typer.Option(
            "--overlays",
            help="Write error, bytes, FLOPs and bits for Model Explorer into this folder.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Show the graph of MODEL after every pass, what each pass changed, and what sites cost and lose.

    Example: starquant-fx inspect --config llada-8b --recipe star-w4a4 --html llada-8b.html --json llada-8b.json
    """
    from rich.console import Console

    from starquant_fx.cli.inspect_files import Files
    from starquant_fx.cli.inspect_views import Views

    console = Console()
    views = Views(stage, diff, site, sites or sort is not None, sort, passes, analysis, chip, every)
    files = Files(json_file, html, dot, svg, module, figure, block, overlays, stage, every, force)
    source = Source(
        model, config, recording, recipe, tokens, layers, target, calibration, cache, seed
    )
    source.check()
    views.check()
    files.check()
    found = source.recording()
    views.check_names(found)
    for path in files.write(found):
        console.print(f"wrote {path}", markup=False, highlight=False)
    for shown in views.shown(found, summary=not files.any):
        console.print(shown)
