"""What a variant's process does with the requests: it builds, runs forwards, and hands over logits."""

from __future__ import annotations

import importlib
import resource
import sys
import time
from pathlib import Path
from typing import Any

from cpu_suite.specs import Place, Shape
from cpu_suite.variants import Variant

ROWS = 128
"""Rows of the logits, spread over all tokens or the masked ones, that are compared with full precision's."""
SMALL = 0.05
"""Seconds; a faster forward is run once more before the timed one, because other processes emptied the caches."""
STATUS = Path("/proc/self/status")


class Served:
    """The requests, on the worker's side.

    Args:
        variant: What to run.
        place: The model.
    """

    def __init__(self, variant: Variant, place: Place) -> None:
        self.variant, self.place = variant, place
        self.runner: Any = None
        self.load_seconds = 0.0
        self.seconds: dict[bool, float] = {}
        self.out: dict[bool, Any] = {}

    def prepare(self) -> None:
        """Makes what the variant's process loads; this process ends afterwards, so its memory is not counted."""
        self.variant.load().prepare(self.place, *self.variant.options)

    def ready(self, masked: bool, shape: Shape) -> dict[str, Any]:
        """Builds the variant if it is not yet, and runs it twice on a shape.

        Args:
            masked: Whether the logits are of the masked tokens only.
            shape: Of the token ids, until the next call.
        """
        import torch

        from cpu_suite.weights import masked_rows, token_ids

        torch.set_num_threads(self.place.threads)
        torch.set_grad_enabled(False)
        if self.runner is None:
            module = self.variant.load()
            for name in self.variant.needs[:1]:  # what runs it; the others only prepare it
                importlib.import_module(name)
            start = time.perf_counter()  # imports are no part of the time
            self.runner = module.build(self.place, *self.variant.options)
            self.load_seconds = time.perf_counter() - start
        self.ids = token_ids(self.place.spec, shape)
        self.rows = masked_rows(self.place.spec, self.ids)
        self.seconds[masked] = SMALL
        first = self.run(masked)
        self.run(masked)
        return {
            "weight_bytes": self.runner.weight_bytes,
            "head": self.runner.head,
            "note": self.runner.note(),
            "load_seconds": self.load_seconds,
            "first_seconds": first,
            "peak_bytes": peak_bytes(),
        }

    def run(self, masked: bool) -> float:
        """Seconds of one forward."""
        rows = self.rows if masked else None
        if self.seconds[masked] < SMALL:
            self.runner.forward(self.ids, rows)
        start = time.perf_counter()
        self.out[masked] = self.runner.forward(self.ids, rows)
        self.seconds[masked] = time.perf_counter() - start
        return self.seconds[masked]

    def finish(self, masked: bool, path: Path) -> bool:
        """Writes some rows of the last logits to a file; returns whether there are any.

        Args:
            masked: Which logits.
            path: Will hold ``masked``, rows of masked tokens, and ``all`` unless only those were computed.
        """
        import numpy as np

        if self.runner.tensor is None:
            return False
        logits = self.runner.tensor(self.out[masked]).flatten(0, -2)
        kept = {"masked": logits if masked else logits[self.rows]}
        if not masked:
            kept["all"] = logits
        np.savez(path, **{name: some(rows).float().numpy() for name, rows in kept.items()})
        return True


def some(rows: Any) -> Any:
    """At most ``ROWS`` of the rows, spread over all."""
    return rows[:: max(1, len(rows) // ROWS)][:ROWS]


def peak_bytes() -> int:
    """Most memory that this process has had resident.

    Linux's ``ru_maxrss`` starts at what the parent had when it started the process; ``VmHWM`` does not.
    """
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
