"""The command line: its options, and the run that they ask for."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch

from cpu_suite.specs import Shape, named, shapes
from gpu_suite.memory import capacity, require_memory
from gpu_suite.specs import FULL, QUICK, TINY, GpuModel, Workload
from gpu_suite.variants import Variant, chosen
from starquant_fx.errors import InputError
from starquant_fx.files import check_destination

BUDGET = 460
"""Seconds that a run may take, a little under eight minutes, because what is running is not interrupted."""
REPEATS, TINY_REPEATS = 9, 2
PARTS = ("checks", "kernels", "models")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run measures.

    Attributes:
        device: Where.
        work: Sizes of single kernels, steps of a generation.
        specs: Models.
        sizes: Token shapes.
        variants: What runs.
        repeats: Timed rounds.
        budget: Seconds that it may take.
        parts: Some of ``PARTS``.
    """

    device: torch.device
    work: Workload
    specs: list[GpuModel]
    sizes: list[Shape]
    variants: list[Variant]
    repeats: int
    budget: float
    parts: tuple[str, ...]


def parser(description: str | None) -> argparse.ArgumentParser:
    """Returns the command line."""
    top = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--models", help=f"separated by commas; default: {','.join(FULL.models)}")
    top.add_argument("--shapes", help=f"SEQUENCESxTOKENS, default: {FULL.shapes}")
    top.add_argument("--variants", help="all, or separated by commas; both bf16 ones always run")
    top.add_argument("--parts", default=",".join(PARTS), help="default: %(default)s")
    top.add_argument(
        "--quick",
        action="store_true",
        help=f"fewer of everything: {','.join(QUICK.models)} at {QUICK.shapes}",
    )
    top.add_argument("--device", default="cuda", help="default: %(default)s")
    top.add_argument(
        "--tiny",
        action="store_true",
        help="tiny models and shapes, on any device: to try the benchmark itself; the figures mean nothing",
    )
    top.add_argument("--repeats", type=int, help=f"timed rounds; default: {REPEATS}")
    top.add_argument(
        "--budget",
        type=float,
        default=BUDGET,
        help="seconds that the run may take, checks included; what is left then is said; default: %(default)s",
    )
    top.add_argument("--json", type=Path, help="write checks, rows and goals, while they come")
    return top


def planned(arguments: argparse.Namespace) -> Plan:
    """What the options ask for.

    Raises:
        InputError: There is no such device, model, variant or shape, a value is out of range, or the device's memory
            holds none of the models.
    """
    work = TINY if arguments.tiny else QUICK if arguments.quick else FULL
    known = (TINY if arguments.tiny else FULL).models
    names = ",".join(work.models) if arguments.models is None else arguments.models
    repeats = arguments.repeats
    if repeats is None:
        repeats = TINY_REPEATS if arguments.tiny else REPEATS
    for option, value in (("repeats", repeats), ("budget", arguments.budget)):
        if value < 1:
            raise InputError("a number is out of range", where=f"--{option}", expected="1 or more")
    sizes = shapes(arguments.shapes or work.shapes, "--shapes")
    if not all(shape.masked for shape in sizes):
        raise InputError(
            "a shape has no masked tokens",
            where="--shapes",
            expected="two tokens or more a sequence",
        )
    if arguments.json is not None:
        check_destination(arguments.json, ".json")
    place = device(arguments.device, arguments.tiny)
    specs = [known[name] for name in named(names, known, "model", "--models")]
    parts = tuple(named(arguments.parts, PARTS, "part", "--parts"))
    if "models" in parts:
        require_memory(specs, sizes, capacity(place))
    return Plan(
        device=place,
        work=work,
        specs=specs,
        sizes=sizes,
        variants=chosen(arguments.variants, arguments.quick),
        repeats=repeats,
        budget=arguments.budget,
        parts=parts,
    )


def device(name: str, tiny: bool) -> torch.device:
    """The device, which must be a GPU unless the benchmark is only tried.

    Raises:
        InputError: It is none, or there is none.
    """
    kind = name.partition(":")[0]
    needed = (
        "an NVIDIA GPU (sm_80 or later), 80 GB for all variants, and a build of PyTorch with CUDA"
    )
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "this benchmark needs a GPU",
            where="--device",
            expected=needed,
            got=f"PyTorch {torch.__version__}, which finds none",
            hint="--device cpu --tiny tries the benchmark itself, without a meaning",
        )
    if kind not in ("cuda", "cpu") or (kind == "cpu" and not tiny):
        raise InputError(
            "this benchmark needs a GPU",
            where="--device",
            expected=needed,
            got=name,
            hint="--device cpu goes with --tiny",
        )
    if kind == "cuda" and ":" not in name:
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(name)
