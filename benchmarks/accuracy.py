#!/usr/bin/env python3
"""Accuracy of every recipe on held-out text, in one run: the tables of docs/accuracy.md.

``--quick`` measures one seed of the recipes that decide and, with ``--json``, writes a flat summary for each model.
What was measured is kept in ``--cache``; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from accuracy_suite.hardened import load
from accuracy_suite.runs import Job, Setting, code_hash, run_all
from accuracy_suite.tables import Figures, full_precision, summary, table
from accuracy_suite.variants import QUICK, TABLES, Variant
from starquant_fx.errors import InputError, exit_code, nearest
from starquant_fx.files import check_destination, write_atomically
from starquant_fx.lowering import choose_target
from starquant_fx.recipes import get_recipe

ROOT = Path(__file__).resolve().parent.parent
MODELS = "llada-tiny,dream-tiny"


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    top = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument(
        "--models",
        default=MODELS,
        help="separated by commas: shipped names, folders; NAME:hardened is its copy with outlier channels",
    )
    top.add_argument(
        "--tables", help=f"all (the default), or separated by commas: {', '.join(TABLES)}"
    )
    top.add_argument("--quick", action="store_true", help="six recipes, the summary")
    top.add_argument("--seeds", type=int, help="default: 3, or 1 with --quick")
    top.add_argument("--split", default="test", choices=("validation", "test"))
    top.add_argument("--segments", type=int, default=96, help="held-out segments of 256 tokens")
    top.add_argument("--draws", type=int, default=4, help="Monte-Carlo draws a segment")
    top.add_argument(
        "--target",
        default="auto",
        help="that the compiled models run on: auto, reference, cpu, triton",
    )
    top.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of one thread")
    top.add_argument("--cache", type=Path, default=ROOT / "runs" / "accuracy.jsonl")
    top.add_argument("--json", type=Path, help="write the summary (with --quick)")
    return top


def chosen_tables(text: str) -> dict[str, list[Variant]]:
    """The tables of these names.

    Raises:
        InputError: There is no such table.
    """
    found = {}
    for name in TABLES if text == "all" else text.split(","):
        if name not in TABLES:
            raise InputError(
                f"unknown table {name!r}",
                where="--tables",
                expected=", ".join(TABLES),
                got=name,
                hint=nearest(name, TABLES),
            )
        found[name] = TABLES[name]()
    return found


def run(arguments: argparse.Namespace) -> None:
    """Measures, then prints."""
    models = arguments.models.split(",")
    if arguments.seeds is None:
        arguments.seeds = 1 if arguments.quick else 3
    for option, least in (("seeds", 1), ("segments", 2), ("draws", 1), ("workers", 1)):
        if getattr(arguments, option) < least:
            expected = f"{least} or more"
            raise InputError("a number is out of range", where=f"--{option}", expected=expected)
    for model in models:
        load(model)  # refused now, not in a worker after minutes
    seeds = range(arguments.seeds)
    setting = Setting(
        arguments.split,
        arguments.segments,
        draws=arguments.draws,
        target=choose_target(arguments.target, torch.device("cpu")),
    )
    quick = [Variant(key, build()) for key, build in QUICK.items()]
    tables = {"quick": quick} if arguments.quick else chosen_tables(arguments.tables or "all")
    if arguments.json is not None:
        check_destination(arguments.json, ".json")
    jobs = {
        (model, name, variant.label, seed): Job(model, variant.recipe.seeded(seed), seed, setting)
        for model in models
        for name, variants in tables.items()
        for variant in variants
        for seed in seeds
    }
    arguments.cache.parent.mkdir(parents=True, exist_ok=True)
    unique = {json.dumps([j.model, j.recipe.to_dict(), j.seed]): j for j in jobs.values()}
    done: dict[str, dict[str, object]] = {}
    for job, figures in run_all(
        unique.values(), arguments.cache, code_hash(ROOT), arguments.workers
    ):
        done[json.dumps([job.model, job.recipe.to_dict(), job.seed])] = figures
        print(f"{len(done)}/{len(unique)}", end="\r", file=sys.stderr, flush=True)
    results: dict[tuple[str, str], dict[str, Figures]] = {}
    for (model, name, label, _), job in jobs.items():
        key = json.dumps([job.model, job.recipe.to_dict(), job.seed])
        results.setdefault((model, name), {}).setdefault(label, []).append(done[key])
    for (model, name), rows in results.items():
        nelbo = full_precision(next(iter(rows.values())))
        title = f"{name}: {model}, full precision {nelbo:.4f} nats a token"
        print(table(title, rows, against(tables[name])))
    if arguments.json is not None:
        values = {
            model: summary(rows) for (model, name), rows in results.items() if name == "quick"
        }
        write_atomically(arguments.json, json.dumps({"summary": values}, indent=2) + "\n")


def against(rows: Sequence[Variant]) -> str:
    """The row that a table's others are compared with: star as shipped, at W4A4 or W8A8, or the first."""
    named = {row.recipe: row.label for row in reversed(rows)}
    shipped = (get_recipe(f"star-{bits}") for bits in ("w4a4", "w8a8"))
    return next((named[recipe] for recipe in shipped if recipe in named), rows[0].label)


def check(arguments: argparse.Namespace) -> None:
    """Raises an InputError for options that do not go together."""
    if arguments.json is not None and not arguments.quick:
        raise InputError("--json writes the summary of --quick", where="--json", hint="add --quick")
    if arguments.quick and arguments.tables is not None:
        raise InputError("--quick has a table of its own", where="--tables", hint="leave it out")
    if arguments.cache.is_dir():
        where = f"--cache {arguments.cache}"
        raise InputError("the cache is a folder", where=where, expected="a file of JSON lines")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    arguments = parser().parse_args(argv)

    def job() -> None:
        check(arguments)
        run(arguments)

    return exit_code(job)


if __name__ == "__main__":
    sys.exit(main())
