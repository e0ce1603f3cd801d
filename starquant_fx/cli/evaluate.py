"""``starquant-fx evaluate``: recipes against full precision on held-out text, same masks for all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from starquant_fx.cli.evaluation import run
from starquant_fx.cli.measure import FULL, measure
from starquant_fx.cli.options import CacheFolder, CalibrationFile, Device, Model, Target
from starquant_fx.cli.subject import Settings, checkpoint_of
from starquant_fx.errors import InputError
from starquant_fx.recipe import LARGEST_SEED

__all__ = ["FULL", "evaluate_command", "measure"]
DEFAULT = ("rtn-w4a4", "star-w4a4")


def evaluate_command(
    model: Model,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            help="Where MODEL is a folder of `compile --save`: the model in full precision that it was compiled from.",
        ),
    ] = None,
    recipe: Annotated[
        list[str] | None, typer.Option("--recipe", "-r", help="Recipe to evaluate, repeatable.")
    ] = None,
    recipes: Annotated[
        str | None, typer.Option("--recipes", help="Recipes to evaluate, separated by commas.")
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            "--text",
            help="Held-out text: .txt, or .jsonl with a field 'text', plain, .gz or .xz, for example WikiText-2. "
            "Default: the shipped excerpt of --split.",
        ),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="Shipped excerpt: validation or test.")
    ] = "validation",
    calibration: CalibrationFile = None,
    segments: Annotated[int, typer.Option("--segments", help="Segments at most.")] = 64,
    length: Annotated[int, typer.Option("--length", help="Tokens a segment.")] = 256,
    target: Target = "auto",
    device: Device = None,
    cache: CacheFolder = None,
    draws: Annotated[
        int | None,
        typer.Option(
            "--draws",
            min=1,
            help="Random masks a segment for the NELBO. Default: 4, or 1 with --quick.",
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="The quick gate instead: one number a recipe, its KL to full precision per masked token.",
        ),
    ] = False,
    rank: Annotated[
        bool,
        typer.Option(
            "--rank",
            help="With --quick: also the long evaluation's NELBO, and the rank correlation of the two.",
        ),
    ] = False,
    ratio: Annotated[
        list[float] | None,
        typer.Option("--ratio", help="Mask ratio to report on, repeatable. Default: .15, .5, .9."),
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(
            "--seed", min=0, max=LARGEST_SEED, help="Seed of calibration and masks, repeatable."
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="So many seeds, from 0 on.")
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
            help="Also each recipe that has this pass with some of its options changed: 'insert-sgat{size=64,rank=0}'.",
        ),
    ] = None,
    trajectory: Annotated[
        bool,
        typer.Option(
            "--trajectory",
            help="Also follow generations step by step: commit flips, hidden-state and attention errors.",
        ),
    ] = False,
    prompts: Annotated[
        int, typer.Option("--prompts", min=2, help="Generations to follow, from the held-out text.")
    ] = 8,
    new_tokens: Annotated[
        int, typer.Option("--new-tokens", min=1, help="Tokens to generate for each.")
    ] = 64,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Denoising steps of each.")] = 32,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write all figures to this .json file.")
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            "--figures",
            help="Write figures (PNG, SVG) to this folder; follows trajectories too. Needs the extra `figures`.",
        ),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the tables as Markdown.")
    ] = False,
) -> None:
    """Measure recipes: NELBO per token and its gap to full precision, agreement and KL on masked tokens.

    Example: starquant-fx evaluate llada-tiny --recipes rtn-w4a4,star-w4a4 --without insert-tac --seeds 3 --json a.json
    """
    if seed and seeds:
        raise InputError(
            "--seed and --seeds exclude each other", where="--seeds", expected="one of them"
        )
    if (quick or rank) and (trajectory or figures):
        raise InputError(
            "--quick measures one number, without trajectories and figures",
            where="--quick",
            expected="no --trajectory and no --figures",
        )
    from starquant_fx.recipes import recipe_names

    names = [*(recipe or []), *recipe_names(recipes or "")]
    checkpoint = checkpoint_of(model, reference)
    usual = DEFAULT if checkpoint is None else ()
    if (
        rank
        and (checkpoint is not None) + len(names or usual) + len(without or ()) + len(replace or ())
        < 2
    ):
        raise InputError("one recipe cannot be ranked", where="--rank", expected="two or more")
    run(
        Settings(
            model=model if reference is None else reference,
            checkpoint=checkpoint,
            recipes=tuple(names or usual),
            without=tuple(without or ()),
            replace=tuple(replace or ()),
            text=text,
            split=split,
            calibration=calibration,
            segments=segments,
            length=length,
            target=target,
            device=device,
            cache=cache,
            draws=draws,
            ratios=tuple(ratio) if ratio else None,
            seeds=tuple(dict.fromkeys(seed or range(seeds or 1))),
            trajectory=trajectory or figures is not None,
            prompts=prompts,
            new_tokens=new_tokens,
            steps=steps,
            json=json,
            figures=figures,
            markdown=markdown,
            quick=quick or rank,
            rank=rank,
        )
    )
