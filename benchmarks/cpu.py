#!/usr/bin/env python3
"""Speed and memory on the CPU beside PyTorch and other runtimes, in one run: the tables of docs/performance.md.

Every variant runs in a process of its own; they take turns, one forward each, so that noise hits all alike. A peer that
is not installed or fails is a row that says so. ``--quick`` measures what decides and, with ``--json``, writes a flat
summary beside the rows. Progress goes to standard error.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
import time
from collections.abc import Sequence

from cpu_suite.measure import Run
from cpu_suite.options import parser, planned
from cpu_suite.prepare import prepare
from cpu_suite.rows import Row
from cpu_suite.specs import Place, Shape, model_folder
from cpu_suite.summaries import by_threads
from cpu_suite.tables import table
from cpu_suite.variants import LOGITS
from starquant_fx.errors import exit_code
from starquant_fx.files import write_atomically


def run(arguments: argparse.Namespace) -> None:
    """Measures, and prints the tables of a model and number of threads when their rows are complete."""
    began = time.monotonic()
    plan = planned(arguments)

    def say(text: str) -> None:
        line = f"[{time.monotonic() - began:5.0f} s] {text}\n"  # in one piece: several threads say something
        print(line, end="", file=sys.stderr, flush=True)

    rows: list[Row] = []
    for spec in plan.specs:
        with model_folder(arguments.keep, spec.name) as folder:
            place = Place(folder, spec, plan.counts[0], plan.logits == "masked")
            failed = prepare(place, plan.variants, arguments.patience, say)
            for count in [] if arguments.prepare_only else plan.counts:
                here = dataclasses.replace(place, threads=count)
                one = Run(here, plan.logits, plan.repeats, arguments.patience, say)
                found = one.measure(plan.variants, plan.sizes, failed)
                rows += found
                show(found, plan.sizes)
    wall = time.monotonic() - began
    say(f"the whole run took {wall:.0f} s")
    if arguments.json is not None and rows:
        values: dict[str, object] = {"rows": [row.to_dict() for row in rows], "wall_seconds": wall}
        if arguments.quick:
            values |= by_threads(rows, plan.counts)
        write_atomically(arguments.json, json.dumps(values, indent=2) + "\n")


def show(rows: Sequence[Row], sizes: Sequence[Shape]) -> None:
    """Prints the tables of one model and number of threads, one for each shape and kind of logits."""
    for shape in sizes:
        for masked in LOGITS["both"]:
            some = [row for row in rows if (row.shape, row.masked) == (str(shape), masked)]
            if some:
                print(table(_title(some[0]), some), flush=True)


def _title(row: Row) -> str:
    plural = "" if row.threads == 1 else "s"
    logits = ", logits of the masked tokens" if row.masked else ""
    return f"{row.model}, {row.shape} tokens, {row.threads} thread{plural}{logits}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    arguments = parser(__doc__).parse_args(argv)
    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    # A terminated run ends like an interrupted one, so that processes and temporary files go with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
