"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cpu_suite.options import threads
from cpu_suite.specs import Place, model_folder, models, shapes
from cpu_suite.variants import LOGITS
from onnx_suite.measuring import Task
from onnx_suite.rows import OnnxRow
from onnx_suite.summaries import SIDES, goals, summary
from onnx_suite.tables import goals_table, tables
from onnx_suite.variants import EXPORTS, QUICK, chosen
from starquant_fx.errors import InputError, exit_code
from starquant_fx.files import check_destination, write_atomically

MODELS, SHAPE = "llada-tiny,12x1024", "1x512"
REPEATS, QUICK_REPEATS = 7, 5
DESCRIPTION = """Exported models in onnxruntime beside full precision and its own quantizer, in one run.

Every variant runs in a process of its own; they take turns, one forward each, so that noise hits all alike. One that
fails is a row that says why. --quick measures what decides; --json writes a flat summary beside the rows.
"""


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    top = argparse.ArgumentParser(
        prog="onnx.py",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--models", help=f"of cpu.py; default: {MODELS}, if quick {','.join(QUICK)}")
    top.add_argument("--tokens", default=SHAPE, help=f"shapes SEQUENCESxTOKENS; default: {SHAPE}")
    top.add_argument("--recipes", help=f"separated by commas; default: {', '.join(EXPORTS)}")
    top.add_argument("--threads", default="1", help="threads of a forward")
    top.add_argument(
        "--logits", default="both", choices=tuple(LOGITS), help="of all tokens, or of the masked"
    )
    top.add_argument("--repeats", type=int, help=f"default: {REPEATS}, {QUICK_REPEATS} if quick")
    top.add_argument("--patience", type=float, default=900, help="seconds that one step may take")
    top.add_argument(
        "--quick",
        action="store_true",
        help=f"errors of {', '.join(QUICK)}, speed of the random one, no bf16, no NELBO",
    )
    top.add_argument("--keep", type=Path, help="folder where exports stay for the next run")
    top.add_argument("--json", type=Path, help="write the rows and the summary")
    return top


def run(arguments: argparse.Namespace) -> None:
    """Measures and prints; tables of a model when its rows are complete."""
    began = time.monotonic()
    tasks_of = _checked(arguments)

    def say(text: str) -> None:
        line = f"[{time.monotonic() - began:5.0f} s] {text}\n"
        print(line, end="", file=sys.stderr, flush=True)

    rows: list[OnnxRow] = []
    for spec in models(arguments.models):
        with model_folder(arguments.keep, spec.name) as folder:
            found = tasks_of(Place(folder, spec, threads(arguments.threads)[0])).run(say)
        print(tables(found), flush=True)
        rows += found
    print(goals_table(rows), flush=True)
    wall = time.monotonic() - began
    say(f"the whole run took {wall:.0f} s")
    if arguments.json is not None:
        values = {
            "summary": summary(rows),
            "variants": {key: name for name, key in SIDES},
            "goals": goals(rows),
            "rows": [row.to_dict() for row in rows],
            "wall_seconds": wall,
        }
        write_atomically(
            arguments.json, json.dumps(_plain(values), indent=2, allow_nan=False) + "\n"
        )


def _plain(value: Any) -> Any:
    """JSON's values; what is not finite is null."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Tasks:
    """Makes the task of a model from the options."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments

    def __call__(self, place: Place) -> Task:
        given, quick = self._arguments, self._arguments.quick
        timed = not (quick and place.spec.shipped and "," in given.models)
        return Task(
            place=place,
            exports=chosen(given.recipes, place.spec, quick),
            sizes=tuple(shapes(given.tokens)) if timed else (),
            compiled=not quick,
            nelbo=not quick,
            logits=given.logits,
            repeats=given.repeats or (QUICK_REPEATS if quick else REPEATS),
            patience=given.patience,
        )


def _checked(arguments: argparse.Namespace) -> _Tasks:
    """Refuses what does not fit before anything runs."""
    for spec in models(arguments.models):
        chosen(arguments.recipes, spec, arguments.quick)
    if arguments.logits != "all" and not all(shape.masked for shape in shapes(arguments.tokens)):
        raise InputError(
            "a shape has no masked tokens",
            where="--tokens",
            expected="two tokens or more a sequence",
            hint="--logits all",
        )
    if len(threads(arguments.threads)) > 1:
        raise InputError("one number of threads is measured at a time", where="--threads")
    for option, value in (("repeats", arguments.repeats), ("patience", arguments.patience)):
        if value is not None and value < 1:
            raise InputError("a number is out of range", where=f"--{option}", expected="1 or more")
    if arguments.json is not None:
        check_destination(arguments.json, ".json")
    return _Tasks(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    arguments = parser().parse_args(argv)
    if arguments.models is None:
        arguments.models = ",".join(QUICK) if arguments.quick else MODELS
    return exit_code(lambda: run(arguments))
