#!/usr/bin/env python3
"""Speed and memory on the CPU beside PyTorch and other runtimes, in one run: the tables of docs/performance.md.

Every variant runs in a process of its own; they take turns, one forward each, so that noise hits all alike. A peer that
is not installed or fails is a row that says so. ``--quick`` measures what decides and, with ``--json``, writes a flat
summary beside the rows. Progress goes to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from cpu_suite.measure import Run
from cpu_suite.prepare import prepare
from cpu_suite.rows import Row, summary
from cpu_suite.specs import MEASURED, SHAPES, Place, Shape, models, shapes
from cpu_suite.tables import table
from cpu_suite.variants import QUICK, chosen
from starquant_fx.errors import InputError, StarQuantError
from starquant_fx.files import check_destination, write_atomically

QUICK_MODEL, QUICK_SHAPE = "12x1024", "1x512"


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    top = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--models", help=f"separated by commas; default: {MEASURED}")
    top.add_argument("--tokens", help=f"shapes SEQUENCESxTOKENS; default: {SHAPES}")
    top.add_argument(
        "--variants", help="all, or separated by commas; bf16, fp32 and the int8 limit always run"
    )
    top.add_argument(
        "--threads", default="1", help="threads of a forward; several separated by commas"
    )
    top.add_argument(
        "--logits",
        default="all",
        choices=("all", "masked"),
        help="of all tokens, or of the masked ones only; in every variant",
    )
    top.add_argument("--repeats", type=int, default=7, help="timed forwards of each variant")
    top.add_argument("--patience", type=float, default=900, help="seconds that one step may take")
    top.add_argument(
        "--quick", action="store_true", help=f"{QUICK_MODEL} at {QUICK_SHAPE}: {', '.join(QUICK)}"
    )
    top.add_argument(
        "--keep",
        type=Path,
        help="folder where weights, exports and artifacts stay, for the next run of the same code",
    )
    top.add_argument(
        "--prepare-only", action="store_true", help="make what --keep keeps, and measure nothing"
    )
    top.add_argument("--json", type=Path, help="write the rows, and with --quick the summary")
    return top


def threads(text: str) -> list[int]:
    """Numbers of threads, separated by commas.

    Raises:
        InputError: One is no number, or more than this machine has processors.
    """
    most = os.cpu_count() or 1
    found = []
    for part in text.split(","):
        if not (part.isascii() and part.isdigit() and 1 <= int(part) <= most):
            raise InputError(
                "a number of threads is out of range",
                where="--threads",
                expected=f"1 to {most}, several separated by commas",
                got=part,
            )
        found.append(int(part))
    return found


def run(arguments: argparse.Namespace) -> None:
    """Measures and prints a table after each shape's rows are complete."""
    if arguments.quick and (arguments.models or arguments.tokens or arguments.variants):
        raise InputError(
            "--quick has its own model, tokens and variants",
            where="--quick",
            hint="leave out --models, --tokens and --variants, or --quick",
        )
    if arguments.prepare_only and arguments.keep is None:
        hint = "--keep FOLDER says where it stays"
        raise InputError("what is prepared would be lost", where="--prepare-only", hint=hint)
    specs = models(arguments.models or (QUICK_MODEL if arguments.quick else MEASURED))
    sizes = shapes(arguments.tokens or (QUICK_SHAPE if arguments.quick else SHAPES))
    variants = chosen(arguments.variants or (",".join(QUICK) if arguments.quick else "all"))
    counts = threads(arguments.threads)
    if arguments.quick and len(counts) > 1:
        raise InputError("--quick takes one number of threads", where="--threads")
    for option, least in (("repeats", 1), ("patience", 1)):
        if getattr(arguments, option) < least:
            expected = f"{least} or more"
            raise InputError("a number is out of range", where=f"--{option}", expected=expected)
    if arguments.json is not None:
        check_destination(arguments.json, ".json")
    began = time.monotonic()

    def say(text: str) -> None:
        line = f"[{time.monotonic() - began:5.0f} s] {text}\n"  # in one piece: several threads say something
        print(line, end="", file=sys.stderr, flush=True)

    rows: list[Row] = []
    for spec in specs:
        with _folder(arguments.keep, spec.name) as folder:
            place = Place(folder, spec, counts[0], arguments.logits == "masked")
            failed = prepare(place, variants, arguments.patience, say)
            for count in [] if arguments.prepare_only else counts:
                here = dataclasses.replace(place, threads=count)
                one = Run(here, arguments.repeats, arguments.patience, say)
                found = one.measure(variants, sizes, failed)
                rows += found
                show(found, sizes)
    if arguments.json is not None and rows:
        values: dict[str, object] = {"rows": [row.to_dict() for row in rows]}
        if arguments.quick:
            values["summary"] = summary(rows)
        write_atomically(arguments.json, json.dumps(values, indent=2) + "\n")


@contextlib.contextmanager
def _folder(keep: Path | None, name: str) -> Iterator[Path]:
    """A model's folder: a temporary one, or one that stays."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="starquant-cpu-") as folder:
            yield Path(folder)
    else:
        (keep / name).mkdir(parents=True, exist_ok=True)
        yield keep / name


def show(rows: Sequence[Row], sizes: Sequence[Shape]) -> None:
    """Prints the tables of one model and number of threads."""
    for shape in sizes:
        some = [row for row in rows if row.shape == str(shape)]
        first = some[0]
        plural = "" if first.threads == 1 else "s"
        logits = ", logits of the masked tokens" if first.masked else ""
        title = f"{first.model}, {shape} tokens, {first.threads} thread{plural}{logits}"
        print(table(title, some), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    arguments = parser().parse_args(argv)
    try:
        run(arguments)
    except StarQuantError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    # A terminated run ends like an interrupted one, so that processes and temporary files go with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
