"""The command line: its options, and the run that they ask for. Nothing here loads torch."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path

from cpu_suite.specs import MEASURED, SHAPES, ModelSpec, Shape, models, shapes
from cpu_suite.variants import LOGITS, PAIRED, QUICK, Variant, chosen
from starquant_fx.errors import InputError
from starquant_fx.files import check_destination

QUICK_MODEL, QUICK_SHAPE = "12x1024", "1x512"
REPEATS, QUICK_REPEATS = 7, 5


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run measures.

    Attributes:
        specs: Models.
        sizes: Token shapes.
        variants: What runs.
        counts: Numbers of threads.
        logits: ``all``, ``masked`` or ``both``.
        repeats: Timed forwards of each variant.
    """

    specs: list[ModelSpec]
    sizes: list[Shape]
    variants: list[Variant]
    counts: list[int]
    logits: str
    repeats: int


def parser(description: str | None) -> argparse.ArgumentParser:
    """Returns the command line."""
    top = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
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
        default="both",
        choices=tuple(LOGITS),
        help="of all tokens, or of the masked ones only, in every variant; by default of all tokens in every variant, "
        f"and in the same rounds of the masked ones in {', '.join(PAIRED)}",
    )
    top.add_argument(
        "--repeats",
        type=int,
        help=f"timed forwards of each variant; default: {REPEATS}, {QUICK_REPEATS} with --quick",
    )
    top.add_argument("--patience", type=float, default=900, help="seconds that one step may take")
    top.add_argument(
        "--quick",
        action="store_true",
        help=f"unless told otherwise {QUICK_MODEL} at {QUICK_SHAPE}: {', '.join(QUICK)}",
    )
    top.add_argument(
        "--keep",
        type=Path,
        help="folder where weights, exports and artifacts stay, for the next run; what other code made is made again",
    )
    top.add_argument(
        "--prepare-only", action="store_true", help="make what --keep keeps, and measure nothing"
    )
    top.add_argument("--json", type=Path, help="write the rows, and with --quick the summary")
    return top


def planned(arguments: argparse.Namespace) -> Plan:
    """What the options ask for.

    Raises:
        InputError: They contradict each other, or a value is out of range.
    """
    quick = arguments.quick
    plan = Plan(
        models(arguments.models or (QUICK_MODEL if quick else MEASURED)),
        shapes(arguments.tokens or (QUICK_SHAPE if quick else SHAPES)),
        chosen(arguments.variants or (",".join(QUICK) if quick else "all")),
        threads(arguments.threads),
        arguments.logits,
        (QUICK_REPEATS if quick else REPEATS) if arguments.repeats is None else arguments.repeats,
    )
    if quick and (len(plan.specs) > 1 or len(plan.sizes) > 1):
        raise InputError(
            "a summary is of one model and shape",
            where="--quick",
            hint="name one model and one shape, or leave out --quick",
        )
    if plan.logits != "all" and not all(shape.masked for shape in plan.sizes):
        raise InputError(
            "a shape has no masked tokens",
            where="--tokens",
            expected="two tokens or more a sequence",
            hint="--logits all",
        )
    if arguments.prepare_only and arguments.keep is None:
        hint = "--keep FOLDER says where it stays"
        raise InputError("what is prepared would be lost", where="--prepare-only", hint=hint)
    for option, value in (("repeats", plan.repeats), ("patience", arguments.patience)):
        if value < 1:
            raise InputError("a number is out of range", where=f"--{option}", expected="1 or more")
    if arguments.json is not None:
        check_destination(arguments.json, ".json")
    return plan


def threads(text: str) -> list[int]:
    """Numbers of threads, separated by commas, each once.

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
    return list(dict.fromkeys(found))
