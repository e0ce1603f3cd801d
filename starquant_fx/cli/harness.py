"""``starquant-fx harness``: the lm-evaluation-harness's tasks from local files, recipe by recipe."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from starquant_fx.cli.checkpoints import is_checkpoint, load_checkpoint
from starquant_fx.cli.options import (
    CacheFolder,
    CalibrationFile,
    Device,
    Model,
    Seed,
    check_place,
)
from starquant_fx.errors import InputError
from starquant_fx.progress import watched

FULL = "full precision"


def harness_command(
    model: Model,
    tasks: Annotated[
        str,
        typer.Option(
            "--tasks",
            "-t",
            help="Comma-separated: truthfulqa_mc2, arc_challenge, hellaswag, winogrande, piqa, mmlu, ceval-valid, "
            "gsm8k, humaneval; or one subject, such as mmlu_anatomy.",
        ),
    ],
    recipe: Annotated[
        list[str] | None,
        typer.Option("--recipe", "-r", help="Recipe to evaluate, repeatable or comma-separated."),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full/--no-full", help="Also evaluate the model as it is.")
    ] = True,
    data: Annotated[
        Path, typer.Option("--data", help="Folder of the tasks' files; see docs/harness.md.")
    ] = Path("../shared/data"),
    limit: Annotated[
        float | None, typer.Option("--limit", help="Rows a task at most; below 1, a share.")
    ] = None,
    num_fewshot: Annotated[
        int | None,
        typer.Option("--num-fewshot", min=0, help="Examples in prompts. Default: LLaDA's setup."),
    ] = None,
    mc_num: Annotated[
        int, typer.Option("--mc-num", help="Monte-Carlo draws an answer for likelihoods.")
    ] = 128,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", help="Rows a pass.")] = 16,
    cfg: Annotated[
        float, typer.Option("--cfg", help="Strength of classifier-free guidance.")
    ] = 0.0,
    gen_length: Annotated[
        int | None,
        typer.Option("--gen-length", min=1, help="Tokens to generate. Default: the task's."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Denoising steps. Default: one a token.")
    ] = None,
    block_length: Annotated[
        int | None,
        typer.Option("--block-length", min=1, help="LLaDA's block. Default: all in one."),
    ] = None,
    allow_code_execution: Annotated[
        bool,
        typer.Option(
            "--allow-code-execution",
            help="Run the programs that the model writes for humaneval, each in a limited subprocess.",
        ),
    ] = False,
    apply_chat_template: Annotated[
        bool, typer.Option("--apply-chat-template", help="Wrap prompts as the tokenizer says.")
    ] = False,
    calibration: CalibrationFile = None,
    seed: Seed = 0,
    target: Annotated[
        str, typer.Option("--target", help="auto, reference, cpu or triton.")
    ] = "auto",  # -t is --tasks
    device: Device = None,
    cache: CacheFolder = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say how much there is to compute, and how long.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the results to this JSON file.")
    ] = None,
) -> None:
    """Run the paper's benchmarks on MODEL in full precision and low bits, or on a packed checkpoint; offline.

    Example: starquant-fx harness llada-tiny --tasks arc_challenge,piqa --recipe star-w4a4 --limit 50
    """
    _quiet()
    from rich.console import Console

    from starquant_fx.files import check_destination, write_atomically
    from starquant_fx.integrations.harness.require import require_harness
    from starquant_fx.integrations.harness.task_table import check_names
    from starquant_fx.recipes import get_recipe

    if output is not None:
        check_destination(output, ".json")
    if limit is not None and limit <= 0:
        raise InputError("--limit is not usable", expected="above 0", got=str(limit))
    names = _listed([tasks])
    check_names(names, allow_code_execution=allow_code_execution)
    recipes: list[Any] = [get_recipe(name).seeded(seed) for name in _listed(recipe or [])]
    check_place(target, device)
    version = require_harness()

    from starquant_fx.evaluation.corpus import calibration_texts
    from starquant_fx.integrations.harness.loading import denoiser
    from starquant_fx.integrations.harness.model import StarQuantLM
    from starquant_fx.integrations.harness.plan import plan_table, plan_tasks
    from starquant_fx.integrations.harness.results import results_json, results_table
    from starquant_fx.integrations.harness.run import run
    from starquant_fx.integrations.harness.tasks import local_tasks

    manager = local_tasks(
        names, data, num_fewshot=num_fewshot, allow_code_execution=allow_code_execution
    )
    tasks_loaded = manager.load(names)
    texts = calibration_texts(model, calibration)
    packed = is_checkpoint(model)
    if packed:
        given = {"--recipe": recipes, "--calibration": calibration, "--cache": cache}
        loaded, tokenizer = load_checkpoint(model, target, device, given)
    else:
        loaded, tokenizer = denoiser(model, device=device)
    options: dict[str, Any] = {
        "mc_num": mc_num,
        "batch_size": batch_size,
        "seed": seed,
        "cfg": cfg,
        "gen_length": gen_length,
        "steps": steps,
        "block_length": block_length,
    }
    console, runs = Console(), []
    runners = [None, *recipes] if full or not recipes else recipes  # None = as it is loaded
    if plan or limit is None:  # whole tasks can take days: how long is said before they start
        lm = StarQuantLM(loaded, tokenizer, **options)
        planned = plan_tasks(lm, tasks_loaded, names, limit)
        console.print(plan_table(lm, planned, len(runners)))
    if plan:
        return
    for one in runners:
        compiled, _ = denoiser(
            loaded, tokenizer, one, texts=texts, seed=seed, cache=cache, target=target
        )
        lm = StarQuantLM(compiled, tokenizer, **options)
        done = run(
            loaded.recipe.name if packed else one.name if one else FULL,
            lm,
            tasks_loaded,
            names,
            limit=limit,
            chat_template=apply_chat_template,
        )
        runs.append(done)
        console.print(f"{done.name}: {done.seconds:.0f} s", highlight=False)
        if output is not None:  # after every model, which can take days
            settings = {"model": model, "limit": limit, "num_fewshot": num_fewshot}
            settings |= {"target": target, **options}
            complete = len(runs) == len(runners)
            write_atomically(output, results_json(runs, settings, version, complete))
    console.print(results_table(runs))
    if output is not None:
        console.print(f"wrote {output}")


def _listed(texts: list[str]) -> list[str]:
    """The names in comma-separated lists, each once."""
    from starquant_fx.recipes import recipe_names

    return list(dict.fromkeys(name for text in texts for name in recipe_names(text)))


def _quiet() -> None:
    """Keeps the harness's progress bars and notes away from logs; refusals still come through."""
    if not watched():
        os.environ.setdefault("TQDM_DISABLE", "1")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
