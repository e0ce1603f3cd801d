#!/usr/bin/env python3
"""Speed and memory on a GPU beside PyTorch and other low-bit kernels, in one run; see docs/performance-gpu.md.

First every kernel is checked, integers bit for bit. Then single kernels, whole forwards and generations of models at
full size are timed; their weights are random and made on the device. A variant that is not installed or fails is a row
that says so. The exit code is 1 if a kernel was wrong, 2 if the run is refused, 3 if it ended early, after which the
tables and the JSON hold what was measured. Progress goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from gpu_suite.goals import goals
from gpu_suite.options import parser, planned
from gpu_suite.runs import Results, run
from gpu_suite.tables import checks_text, goals_text, kernels_text, models_text
from starquant_fx.errors import cause, exit_code
from starquant_fx.files import write_atomically

WRONG, STOPPED = 1, 3
"""Exit codes of a run in which a kernel was wrong, and of one that ended early."""
EVERY = 2.0
"""Seconds between two writings of an unfinished run's results at least."""


def measured(arguments: argparse.Namespace) -> Results:
    """Runs what the options ask for, prints the tables and writes the JSON, also if the run ends early."""
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {text}", file=sys.stderr, flush=True)

    results = Results(planned(arguments))
    # A run that is ended from outside, as by a limit of time, tells what it has as one that is interrupted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run(results, say, keeper(results, arguments.json))
    except KeyboardInterrupt:
        results.stopped = "interrupted"
    except Exception as error:  # whatever ended the run, what was measured before is told
        traceback.print_exc()
        results.stopped = cause(error)
    tell(results)
    if arguments.json is not None:
        write(results, arguments.json)
    say(f"the whole run took {results.wall_seconds:.0f} s")
    return results


def keeper(results: Results, path: Path | None) -> Callable[[], None]:
    """A function that writes what there is to a JSON file, unless it did so a moment ago."""
    last = -EVERY

    def keep() -> None:
        nonlocal last
        now = time.monotonic()
        if path is not None and now - last >= EVERY:
            last = now
            write(results, path)

    return keep


def write(results: Results, path: Path) -> None:
    """Writes all results, whole or not at all."""
    write_atomically(path, json.dumps(results.to_dict(), indent=2) + "\n")


def tell(results: Results) -> None:
    """Prints the tables."""
    if results.stopped:
        print(f"### This run ended early: {results.stopped}\n")
    if results.checks:
        print(checks_text(results.checks))
    if results.kernels:
        print(kernels_text(results.kernels, results.ceiling))
    if results.rows:
        print(models_text(results.rows))
        print(goals_text(goals(results.rows)))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    arguments = parser(__doc__).parse_args(argv)
    found: list[Results] = []
    code = exit_code(lambda: found.append(measured(arguments)))
    if any(results.failed for results in found):
        return WRONG
    return code or (STOPPED if any(results.stopped for results in found) else 0)


if __name__ == "__main__":
    sys.exit(main())
