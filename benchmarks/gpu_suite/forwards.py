"""Whole models: a forward and a generation of each variant of a group, in turns, beside bf16."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from cpu_suite.specs import Shape
from cpu_suite.weights import masked_rows, token_ids
from gpu_suite.clock import Clock
from gpu_suite.generation import Generation
from gpu_suite.memory import without_room
from gpu_suite.rows import ModelRow
from gpu_suite.runner import Runner
from gpu_suite.specs import GpuModel
from gpu_suite.variants import GENERATING, Subject, Variant
from starquant_fx.errors import StarQuantError, cause
from structures import in_turns

FORWARD, GENERATION = "forward", "generation"
SPENT = "the time that the run may take was spent before"


@dataclasses.dataclass
class Ready:
    """What is timed of one variant.

    Attributes:
        row: Its row.
        call: One measurement.
        part: A part of it, by which its time is judged.
    """

    row: ModelRow
    call: Callable[[], Any]
    part: Callable[[], Any]


@dataclasses.dataclass
class Forwards:
    """Measures the variants of one group on one model.

    Attributes:
        subject: The model.
        clock: Of the device.
        repeats: Timed rounds of a forward.
        steps: Of a generation.
        left: Seconds that are left to the group.
        say: Takes a line of progress.
        free: Bytes of the device's memory for all of it; None: not looked at.
    """

    subject: Subject
    clock: Clock
    repeats: int
    steps: int
    left: Callable[[], float]
    say: Callable[[str], None]
    free: int | None = None

    def rows(self, variants: Sequence[Variant], shapes: Sequence[Shape]) -> Iterator[ModelRow]:
        """The rows of all shapes, kinds of logits and tasks; bf16 must be among the variants."""
        runners: dict[str, Runner] = {}
        least = min(shapes, key=lambda shape: shape.tokens)
        failed = without_room(self.subject.spec, (), variants, least, self.free)
        for one in variants:
            self.say(f"{self.subject.spec.name}: building {one.name}")
            failed[one.name] = (
                one.missing() or failed.get(one.name) or (SPENT if self.left() <= 0 else "")
            )
            if not failed[one.name]:
                try:
                    runners[one.name] = one.build(self.subject)
                except Exception as error:  # whatever a peer raises is the reason in its rows
                    failed[one.name] = _reason(error)
        for task, masked, shape in rounds(shapes):
            some = [v for v in variants if task == FORWARD or v.name in GENERATING]
            built = [v for v in variants if v.name in runners]
            wanted = [v for v in built if v in some]
            small = without_room(self.subject.spec, built, wanted, shape, self.free)
            found = {
                v.name: row_of(self.subject.spec, v, shape, masked, task, self.steps) for v in some
            }
            for name, row in found.items():
                row.reason = failed.get(name) or small.get(name, "")
                row.floats = self.subject.floats
            which = "masked rows" if masked else "all rows"
            self.say(f"{self.subject.spec.name} {shape}: {task}, {which}")
            ids = token_ids(self.subject.spec, shape).to(self.clock.device)
            self._measure(found, runners, shape, ids)
            yield from found.values()

    def _measure(
        self,
        rows: dict[str, ModelRow],
        runners: dict[str, Runner],
        shape: Shape,
        ids: torch.Tensor,
    ) -> None:
        """Fills the rows of one shape, kind of logits and task."""
        ready: list[Ready] = []
        for name, row in rows.items():
            if row.reason:
                continue
            if self.left() <= 0:
                row.reason = SPENT
                continue
            try:
                ready.append(self._ready(row, runners[name], shape, ids))
            except Exception as error:  # whatever a variant raises is the reason in its row
                row.reason = _reason(error)
                self.clock.release()
        if rows and next(iter(rows.values())).task == GENERATION:
            for one in self._affordable(ready):
                one.row.seconds = [self.clock.seconds(one.call)]  # its steps make up for repeats
        else:
            found = in_turns([one.call for one in ready], self.repeats, self.clock.seconds)
            for one, seconds in zip(ready, found, strict=True):
                one.row.seconds = seconds
        ready.clear()
        self.clock.release()
        compare(list(rows.values()))

    def _affordable(self, ready: list[Ready]) -> Iterator[Ready]:
        """Those that the time left is enough for when their turn comes, judged by one step."""
        for one in ready:
            needed, left = self.clock.seconds(one.part) * one.row.steps, self.left()
            if needed <= left:
                yield one
            else:
                one.row.reason = f"it would take {needed:.3g} s, and {left:.3g} s are left"

    def _ready(self, row: ModelRow, runner: Runner, shape: Shape, ids: torch.Tensor) -> Ready:
        """Runs a variant once, so that it compiles; measures its memory; captures it."""
        row.weight_bytes, row.head, row.note = runner.weight_bytes, runner.head, runner.note
        if row.task == GENERATION:
            prompt = ids[:, : shape.length // 2].clamp(max=self.subject.spec.vocab - 2)
            made = Generation(self.subject.spec, shape, prompt, runner, row.masked, row.steps)
            step: Callable[[], Any] = made.step
        else:
            made = None
            places = masked_rows(self.subject.spec, ids) if row.masked else None
            step = lambda: runner.forward(ids, places)  # noqa: E731
        if not bool(step().isfinite().all()):
            row.note = "; ".join(filter(None, [row.note, "its results are not finite"]))
        once, growth = (
            self.clock.growth(lambda: self.clock.captured(step)[0])
            if runner.graphed
            else (step, self.clock.growth(step)[1])
        )
        row.peak_bytes = None if growth is None else runner.held_bytes + growth
        if made is None:
            return Ready(row, once, once)

        def generate() -> None:
            made.reset()
            for _ in range(row.steps):
                once()

        return Ready(row, generate, once)


def rounds(shapes: Sequence[Shape]) -> Iterator[tuple[str, bool, Shape]]:
    """Task, whether logits are of the masked rows only, and shape: what matters most first, in case time runs out."""
    for shape in shapes:
        yield from ((FORWARD, masked, shape) for masked in (True, False))
    for masked in (True, False):
        yield from ((GENERATION, masked, shape) for shape in shapes)


def row_of(
    spec: GpuModel, variant: Variant, shape: Shape, masked: bool, task: str, steps: int
) -> ModelRow:
    """An empty row."""
    forward = task == FORWARD
    generated = shape.batch * (shape.length - shape.length // 2)
    return ModelRow(
        model=spec.name,
        shape=str(shape),
        variant=variant.name,
        kind=variant.kind,
        masked=masked,
        task=task,
        tokens=shape.tokens if forward else generated,
        steps=1 if forward else steps,
    )


def compare(rows: Sequence[ModelRow]) -> None:
    """Notes on the rows of one round what bf16 took: the fastest of its variants, and the least memory."""
    full = [row for row in rows if row.kind == "full"]
    for row in rows:
        row.bf16_seconds = min((r.median for r in full if r.median is not None), default=None)
        row.bf16_weight_bytes = min((r.weight_bytes for r in full if r.weight_bytes), default=None)
        row.bf16_peak_bytes = min((r.peak_bytes for r in full if r.peak_bytes), default=None)


def _reason(error: Exception) -> str:
    """A refusal in one line, or what a library raised."""
    return error.what if isinstance(error, StarQuantError) else cause(error)
