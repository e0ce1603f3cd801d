"""The variants: what is exported, in which flavours, and what is measured beside it. Nothing here loads torch."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any, ClassVar

from cpu_suite import variants as cpu
from cpu_suite.specs import ModelSpec, Place, named
from cpu_suite.variants import Variant

FULL, DYNAMIC, COMPILED = cpu.FULL, "quantize_dynamic", "bf16 compiled"
ANCHORS = (FULL, DYNAMIC, COMPILED)
"""Measured beside every group of variants."""
FLAVOURS = {"integer": 0.6, "qdq": 1.3, "nbits": 0.8}
"""With the most memory of a process, in units of the float32 model, roughly."""
CHECKED = ("integer", "qdq")
"""Flavours that activations are quantized in: those whose export is verified."""
HEAD8 = " int8 head"


@dataclasses.dataclass(frozen=True)
class Export:
    """A recipe, and what it is exported as.

    Attributes:
        label: What it is called.
        recipe: As ``starquant_fx.compile`` takes it.
        flavours: Of the exports.
        checked: Whether those of ``CHECKED`` are verified when they are written.
        short: Whether the recipe's estimates are cut short, as they always are on random models.
    """

    label: str
    recipe: str
    flavours: tuple[str, ...]
    checked: bool = True
    short: bool = False

    @property
    def job(self) -> str:
        """Name of its preparation."""
        return f"{self.label}{' short' if self.short else ''}: {', '.join(self.flavours)}"


@dataclasses.dataclass(frozen=True)
class Job(Variant):
    """A preparation in a process of its own."""

    package: ClassVar[str] = "onnx_suite"


@dataclasses.dataclass(frozen=True)
class Session(Variant):
    """A model that onnxruntime runs, in a process without torch.

    Attributes:
        job: What makes it.
        plain: The variant without star's transforms, of the same flavour and bits.
    """

    package: ClassVar[str] = "onnx_suite"
    job: str = ""
    plain: str = ""

    def served(self, place: Place) -> Any:
        """What answers the requests in its process."""
        return importlib.import_module("onnx_suite.served").SessionServed(self, place)


def export(label: str, flavours: Sequence[str] = tuple(FLAVOURS), **more: Any) -> Export:
    """An export by its label: a recipe's name, and `` int8 head`` behind it if the head is quantized too."""
    recipe = label.removesuffix(HEAD8)
    if recipe != label:
        recipe += "[role:head=w8a8]"
    return Export(label, recipe, tuple(flavours), **more)


EXPORTS = {
    one.label: one
    for one in (
        export("rtn-w8a8"),
        export("rtn-w8a8" + HEAD8, ("integer",)),
        export("star-w8a8"),
        export("star-w8a8" + HEAD8, ("integer",)),
        export("rtn-w4a4"),
        export("star-w4a4"),
    )
}
"""All that is measured, by label."""
QUICK: dict[str, tuple[Export, ...]] = {
    "llada-tiny": (export("star-w8a8", CHECKED, short=True),),
    "dream-tiny": (export("rtn-w8a8", CHECKED),),
    "12x1024": (
        export("rtn-w8a8", ("integer",), checked=False),
        export("rtn-w8a8" + HEAD8, ("integer",)),
    ),
}
"""What decides, by model: errors of the shipped one, speed of the random one."""
PLAIN_JOB = "fp32 and quantize_dynamic"


def jobs(exports: Sequence[Export]) -> list[Variant]:
    """The preparations of a model, long ones first."""
    made: list[Variant] = [Job(PLAIN_JOB, "", "plain", prepared=True)]
    made += [Job(one.job, "", "exports", (one,), prepared=True) for one in exports]
    return sorted(made, key=lambda job: "star" not in job.name)


def sessions(exports: Sequence[Export]) -> list[Session]:
    """The variants that onnxruntime runs, in the table's order; those that are compared are neighbours."""
    found = [
        Session(FULL, "full", "served", ("fp32",), 1.3, job=PLAIN_JOB),
        Session(DYNAMIC, "peer", "served", ("dynamic",), 0.7, job=PLAIN_JOB),
    ]
    for flavour, size in FLAVOURS.items():
        for one in sorted(exports, key=lambda e: e.label.partition("-")[2]):
            if flavour in one.flavours:
                plain = _name(one.label.replace("star", "rtn"), flavour)
                options = (folder(one.label, flavour),)
                name = _name(one.label, flavour)
                plain = "" if plain == name else plain
                found.append(
                    Session(name, "ours", "served", options, size, job=one.job, plain=plain)
                )
    return found


def measured(exports: Sequence[Export], compiled: bool) -> list[Variant]:
    """All variants of a model.

    Args:
        exports: What is exported.
        compiled: Whether PyTorch's compiled bf16 is among them.
    """
    return [*sessions(exports), *([cpu.VARIANTS[COMPILED]] if compiled else [])]


def chosen(labels: str | None, spec: ModelSpec, quick: bool) -> tuple[Export, ...]:
    """The exports of a model.

    Args:
        labels: Separated by commas; None = what ``quick`` says.
        spec: The model.
        quick: Whether it is only what decides.

    Raises:
        InputError: There is no such export.
    """
    if labels is not None:
        return tuple(EXPORTS[n] for n in named(labels, EXPORTS, "recipe", "--recipes"))
    if quick:
        return QUICK.get(spec.name, QUICK["12x1024"])
    return tuple(EXPORTS.values())


def folder(label: str, flavour: str) -> str:
    """What an export is called in names of files."""
    return f"{label}-{flavour}".replace(" ", "-")


def _name(label: str, flavour: str) -> str:
    return f"{label}, {flavour}"
