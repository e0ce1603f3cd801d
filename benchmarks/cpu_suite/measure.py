"""The measurement: everything is made before, then the variants take turns, one forward each."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from cpu_suite.memory import free_bytes, grouped
from cpu_suite.rows import Row
from cpu_suite.specs import Place, Shape
from cpu_suite.variants import ANCHORS, FULL, HALVES, LIMIT, Variant
from cpu_suite.worker import Worker, WorkerError, interrupting

PAUSE = 0.03
"""Seconds between two turns, in which the threads of the one before go to sleep."""
Say = Callable[[str], None]


class Run:
    """One model with one number of threads.

    Args:
        place: The model's folder, sizes and threads.
        repeats: Timed forwards of each variant and shape.
        patience: Seconds that one request may take.
        say: Told what is being done.
    """

    def __init__(self, place: Place, repeats: int, patience: float, say: Say) -> None:
        self.place, self.repeats, self.patience = place, repeats, patience
        self.say = say
        self.rows: dict[tuple[str, str], Row] = {}
        self._reference: dict[str, np.ndarray[Any, Any]] = {}

    def measure(
        self, variants: Sequence[Variant], shapes: Sequence[Shape], failed: dict[str, str]
    ) -> list[Row]:
        """Measures all variants, in groups that fit into memory, each beside the same anchors.

        Args:
            variants: What to run, with fp32 and the anchors among it.
            shapes: Token shapes, small ones first.
            failed: Reasons of variants that could not be prepared, by name.

        Returns:
            A row for every shape and variant.
        """
        for variant in variants:
            for shape in shapes:
                self._row(variant, shape).reason = failed.get(variant.name, "")
        anchors = [v for v in variants if v.name in ANCHORS and v.name not in failed]
        others = [v for v in variants if v.name not in ANCHORS and v.name not in failed]
        others.sort(key=lambda v: v.name != FULL)  # what the others' logits are compared with
        with contextlib.ExitStack() as held:
            near = [self._started(variant, held) for variant in anchors]
            groups = grouped(anchors, others, self.place.spec, free_bytes()) or [[]]
            for group in groups:
                with contextlib.ExitStack() as holding:
                    workers = [*near, *(self._started(v, holding) for v in group)]
                    for shape in shapes:
                        self._measure(workers, shape)
        for variant in anchors:
            self._pool(variant, shapes)
        order = [(str(shape), variant.name) for shape in shapes for variant in variants]
        return [self.rows[key] for key in order]

    def _started(self, variant: Variant, stack: contextlib.ExitStack) -> Worker:
        worker = Worker(variant, self.place, self.patience)
        stack.callback(worker.stop)
        return worker

    def _measure(self, workers: Sequence[Worker], shape: Shape) -> None:
        """Times one shape; every worker's turn comes once a round, and each round begins with another."""
        self.say(f"{self._title(shape)}: building {', '.join(w.variant.name for w in workers)}")
        alive = [w for w in workers if not self._row(w.variant, shape).reason]
        with ThreadPoolExecutor(os.cpu_count()) as pool, interrupting(alive):
            built = list(pool.map(lambda w: self._asked(w, shape, "ready", shape), alive))
        times: dict[str, list[float]] = {}
        for worker, found in zip(alive, built, strict=True):
            if found is not None:
                row, times[worker.variant.name] = self._row(worker.variant, shape), []
                row.weight_bytes, row.head = found["weight_bytes"], found["head"]
                row.note = found["note"]
        for turn in range(self.repeats):
            self.say(f"{self._title(shape)}: round {turn + 1} of {self.repeats}")
            first = turn % len(alive) if alive else 0
            for worker in [*alive[first:], *alive[:first]]:
                if worker.variant.name in times:
                    time.sleep(PAUSE)
                    seconds = self._asked(worker, shape, "run")
                    if seconds is None:
                        del times[worker.variant.name]
                    else:
                        times[worker.variant.name].append(seconds)
        medians = {name: statistics.median(seconds) for name, seconds in times.items()}
        halves = [medians[name] for name in HALVES if name in medians]
        for worker in alive:
            name = worker.variant.name
            if name in times:
                row = self._row(worker.variant, shape)
                row.seconds += times[name]
                row.bf16_seconds = min(halves, default=None)
                row.limit_seconds = medians.get(LIMIT)
        for worker in sorted(alive, key=lambda w: w.variant.name != FULL):
            if worker.variant.name in times:
                self._finish(worker, shape)

    def _pool(self, anchor: Variant, shapes: Sequence[Shape]) -> None:
        """Compares an anchor, which ran beside every group, over the rounds of all of them."""
        for shape in shapes:
            keys = {name: (str(shape), name) for name in ANCHORS}
            pooled = {n: self.rows[key].median for n, key in keys.items() if key in self.rows}
            halves = [pooled.get(name) for name in HALVES]
            row = self._row(anchor, shape)
            row.bf16_seconds = min((h for h in halves if h is not None), default=None)
            row.limit_seconds = pooled.get(LIMIT)

    def _finish(self, worker: Worker, shape: Shape) -> None:
        """Adds memory and the distance of the logits from fp32's."""
        row = self._row(worker.variant, shape)
        if row.peak_bytes is not None:  # an anchor that an earlier group measured
            return
        path = self.place.folder / "logits.npy"
        found = self._asked(worker, shape, "finish", path)
        if found is None:
            return
        row.peak_bytes = found["peak_bytes"]
        if found["logits"] is not None:
            logits = np.load(path)
            if row.variant == FULL:
                self._reference[str(shape)] = logits
            if (reference := self._reference.get(str(shape))) is not None:
                row.error = float(np.linalg.norm(logits - reference) / np.linalg.norm(reference))

    def _asked(self, worker: Worker, shape: Shape, request: str, *arguments: Any) -> Any:
        """The answer; None if there is none, in which case the row says why."""
        try:
            return worker.ask(request, *arguments)
        except WorkerError as error:
            self._row(worker.variant, shape).reason = str(error)
            return None

    def _row(self, variant: Variant, shape: Shape) -> Row:
        """The row of a variant and a shape; a variant whose process ended has its reason in the later ones too."""
        key = (str(shape), variant.name)
        if key not in self.rows:
            self.rows[key] = Row(
                model=self.place.spec.name,
                shape=str(shape),
                threads=self.place.threads,
                variant=variant.name,
                kind=variant.kind,
                tokens=shape.tokens,
                operations=self.place.spec.operations(
                    shape.tokens, shape.masked if self.place.masked else shape.tokens
                ),
                masked=self.place.masked,
            )
        return self.rows[key]

    def _title(self, shape: Shape) -> str:
        return f"{self.place.spec.name}, {shape} tokens, threads {self.place.threads}"
