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
from cpu_suite.variants import ANCHORS, FULL, HALVES, LIMIT, LOGITS, Variant, logits_of
from cpu_suite.worker import Worker, WorkerError, interrupting

PAUSE = 0.03
"""Seconds between two turns, in which the threads of the one before go to sleep."""
Say = Callable[[str], None]
Medians = dict[str, float]


class Run:
    """One model with one number of threads.

    Args:
        place: The model's folder, sizes and threads.
        logits: ``all``, ``masked`` or ``both``: whose logits are computed.
        repeats: Timed forwards of each variant, shape and kind of logits.
        patience: Seconds that one request may take.
        say: Told what is being done.
    """

    def __init__(self, place: Place, logits: str, repeats: int, patience: float, say: Say) -> None:
        self.place, self.logits = place, logits
        self.repeats, self.patience = repeats, patience
        self.say = say
        self.rows: dict[tuple[str, bool, str], Any] = {}
        self._reference: dict[tuple[str, str], np.ndarray[Any, Any]] = {}

    def measure(
        self, variants: Sequence[Variant], shapes: Sequence[Shape], failed: dict[str, str]
    ) -> list[Row]:
        """Measures all variants, in groups that fit into memory, each beside the same anchors.

        Args:
            variants: What to run, with fp32 and the anchors among it.
            shapes: Token shapes, small ones first.
            failed: Reasons of variants that could not be prepared, by name.

        Returns:
            A row for every shape, kind of logits and variant that runs so.
        """
        for shape in shapes:
            for masked in LOGITS[self.logits]:
                for variant in variants:
                    if masked in self.kinds(variant):
                        self._row(variant, shape, masked).reason = failed.get(variant.name, "")
        order = list(self.rows)
        anchors = [v for v in variants if v.name in self.anchors() and v.name not in failed]
        others = [v for v in variants if v.name not in self.anchors() and v.name not in failed]
        others.sort(key=lambda v: v.name != FULL)  # what the others' logits are compared with
        with contextlib.ExitStack() as held:
            near = [self._started(variant, held) for variant in anchors]
            groups = grouped(anchors, others, self.place.spec, free_bytes()) or [[]]
            for group in groups:
                with contextlib.ExitStack() as holding:
                    workers = [*near, *(self._started(v, holding) for v in group)]
                    for shape in shapes:
                        self._measure(workers, shape)
        self._pool(order)
        return [self.rows[key] for key in order]

    def anchors(self) -> Sequence[str]:
        """Variants that run beside every group."""
        return ANCHORS

    def kinds(self, variant: Variant) -> tuple[bool, ...]:
        """Whether a variant's logits are of the masked tokens only; no and then yes where it runs both ways."""
        return logits_of(variant, self.logits)

    def new_row(self, **values: Any) -> Row:
        """A row without figures."""
        return Row(**values)

    def relate(self, row: Row, medians: Medians) -> None:
        """Notes what a row's ratios are taken of.

        Args:
            row: Of an anchor over all groups, at last, or of any variant in its group.
            medians: Seconds of the variants that ran in the same rounds, by name, with the same kind of logits.
        """
        row.bf16_seconds = min((medians[n] for n in HALVES if n in medians), default=None)
        row.limit_seconds = medians.get(LIMIT)

    def _started(self, variant: Variant, stack: contextlib.ExitStack) -> Worker:
        worker = Worker(variant, self.place, self.patience)
        stack.callback(worker.stop)
        return worker

    def _measure(self, workers: Sequence[Worker], shape: Shape) -> None:
        """Times one shape; every worker's turn comes once a round, and each round begins with another."""
        self.say(f"{self._title(shape)}: building {', '.join(w.variant.name for w in workers)}")
        with ThreadPoolExecutor(os.cpu_count()) as pool, interrupting(workers):
            list(pool.map(lambda worker: self._ready(worker, shape), workers))
        turns = [
            (worker, masked)
            for masked in LOGITS[self.logits]
            for worker in workers
            if masked in self.kinds(worker.variant)
        ]
        times: dict[tuple[bool, str], list[float]] = {}
        for turn in range(self.repeats):
            self.say(f"{self._title(shape)}: round {turn + 1} of {self.repeats}")
            first = turn % len(turns)
            for worker, masked in [*turns[first:], *turns[:first]]:
                if not self._row(worker.variant, shape, masked).reason:
                    time.sleep(PAUSE)
                    seconds = self._asked(worker, shape, masked, "run")
                    if seconds is not None:
                        times.setdefault((masked, worker.variant.name), []).append(seconds)
        medians = {key: statistics.median(seconds) for key, seconds in times.items()}
        turns.sort(key=lambda turn: turn[0].variant.name != FULL)
        for worker, masked in turns:
            row = self._row(worker.variant, shape, masked)
            if not row.reason:
                row.seconds += times[masked, row.variant]
                self.relate(row, {n: value for (m, n), value in medians.items() if m == masked})
                self._compare(worker, shape, row)

    def _ready(self, worker: Worker, shape: Shape) -> None:
        """Has a variant built and run; the figures of an anchor's first group, in which it was built, stay."""
        for masked in self.kinds(worker.variant):
            row = self._row(worker.variant, shape, masked)
            found = None if row.reason else self._asked(worker, shape, masked, "ready", shape)
            if found is None:
                continue
            if masked and self.logits == "both":
                del found["peak_bytes"]  # the logits of all tokens came before
            for name, value in found.items():
                if getattr(row, name) in (None, ""):
                    setattr(row, name, value)

    def _pool(self, keys: Sequence[tuple[str, bool, str]]) -> None:
        """Compares the anchors, which ran beside every group, over the rounds of all of them."""
        for shape, masked, name in keys:
            if name in self.anchors():
                rows = {n: self.rows.get((shape, masked, n)) for n in self.anchors()}
                medians = {n: row.median for n, row in rows.items() if row is not None}
                pooled = {n: value for n, value in medians.items() if value is not None}
                self.relate(self.rows[shape, masked, name], pooled)

    def _compare(self, worker: Worker, shape: Shape, row: Row) -> None:
        """Adds the distance of the logits from fp32's, which come first."""
        path = self.place.folder / "logits.npz"
        if row.error is not None or not self._asked(worker, shape, row.masked, "finish", path):
            return
        with np.load(path) as found:
            if row.variant == FULL:
                self._reference |= {(row.shape, part): found[part] for part in found}
            part = "masked" if row.masked else "all"
            if (reference := self._reference.get((row.shape, part))) is not None:
                apart = np.linalg.norm(found[part] - reference)
                row.error = float(apart / np.linalg.norm(reference))

    def _asked(
        self, worker: Worker, shape: Shape, masked: bool, request: str, *arguments: Any
    ) -> Any:
        """The answer; None if there is none, in which case the row says why."""
        try:
            return worker.ask(request, masked, *arguments)
        except WorkerError as error:
            self._row(worker.variant, shape, masked).reason = str(error)
            return None

    def _row(self, variant: Variant, shape: Shape, masked: bool) -> Any:
        """The row of a variant; one whose process ended has its reason in the later ones too."""
        key = (str(shape), masked, variant.name)
        if key not in self.rows:
            rows = shape.masked if masked else shape.tokens
            self.rows[key] = self.new_row(
                model=self.place.spec.name,
                shape=str(shape),
                threads=self.place.threads,
                variant=variant.name,
                kind=variant.kind,
                tokens=shape.tokens,
                operations=self.place.spec.operations(shape.tokens, rows),
                masked=masked,
            )
        return self.rows[key]

    def _title(self, shape: Shape) -> str:
        return f"{self.place.spec.name}, {shape} tokens, threads {self.place.threads}"
