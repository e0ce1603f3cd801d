#!/usr/bin/env python3
"""Speed and memory on a GPU beside PyTorch and other low-bit kernels, in one run; see docs/performance-gpu.md.

First every kernel is checked, integers bit for bit. Then single kernels, whole forwards and generations of models at
full size are timed; their weights are random and made on the device. A variant that is not installed or fails is a row
that says so. The exit code is 1 if a kernel was wrong, 2 if the run is refused. Progress goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

from gpu_suite.goals import goals
from gpu_suite.options import parser, planned
from gpu_suite.runs import Results, run
from gpu_suite.tables import checks_text, goals_text, kernels_text, models_text
from starquant_fx.errors import exit_code
from starquant_fx.files import write_atomically

WRONG = 1
"""Exit code of a run in which a kernel was wrong."""


def measured(arguments: argparse.Namespace) -> Results:
    """Runs what the options ask for, prints the tables and writes the JSON."""
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {text}", file=sys.stderr, flush=True)

    results = run(planned(arguments), say)
    if results.checks:
        print(checks_text(results.checks))
    if results.kernels:
        print(kernels_text(results.kernels, results.ceiling))
    if results.rows:
        print(models_text(results.rows))
        print(goals_text(goals(results.rows)))
    if arguments.json is not None:
        write_atomically(arguments.json, json.dumps(results.to_dict(), indent=2) + "\n")
    say(f"the whole run took {results.wall_seconds:.0f} s")
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    arguments = parser(__doc__).parse_args(argv)
    found: list[Results] = []
    code = exit_code(lambda: found.append(measured(arguments)))
    return code or (WRONG if any(results.failed for results in found) else 0)


if __name__ == "__main__":
    sys.exit(main())
