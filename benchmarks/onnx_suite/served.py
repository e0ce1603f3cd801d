"""What the process of an exported model does with the requests. It loads no torch, so its memory is onnxruntime's."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from cpu_suite.served import SMALL, peak_bytes, some
from cpu_suite.specs import ModelSpec, Place, Shape
from onnx_suite import reports
from onnx_suite.variants import Session
from starquant_fx.errors import StarQuantError
from starquant_fx.runtime import load
from starquant_fx.runtime.metadata import METADATA, MODEL
from starquant_fx.runtime.providers import onnxruntime
from starquant_fx.runtime.session import session_options


def open_session(place: Place, name: str) -> Any:
    """A session of an export on the CPU, with the options of our runtime for all variants alike.

    Our exports are loaded as users load them, the SHA-256 of all files included; other models have none.

    Raises:
        StarQuantError: There is no such export; it says why.
    """
    reason = reports.read(place, name).get("reason")
    if reason:
        raise StarQuantError(reason)
    folder = reports.export_folder(place, name)
    if (folder / METADATA).exists():
        return load(folder, threads=place.threads).session
    options = session_options(place.threads, strict=False)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime().InferenceSession(
        folder / MODEL, options, providers=["CPUExecutionProvider"]
    )


class SessionServed:
    """The requests, on the worker's side; those of ``cpu_suite.served.Served``.

    Args:
        variant: What to run.
        place: The model.
    """

    def __init__(self, variant: Session, place: Place) -> None:
        self.variant, self.place = variant, place
        self.session: Any = None
        self.load_seconds = 0.0
        self.seconds: dict[bool, float] = {}
        self.out: dict[bool, Any] = {}

    def ready(self, masked: bool, shape: Shape) -> dict[str, Any]:
        """Opens the session if it is not yet, and runs it twice on a shape.

        Args:
            masked: Whether the logits are of the masked tokens only.
            shape: Of the token ids, until the next call.
        """
        if self.session is None:
            onnxruntime()  # its import is no part of the time
            start = time.perf_counter()
            self.session = open_session(self.place, self.variant.options[0])
            self.load_seconds = time.perf_counter() - start
        self.ids = np.load(ids_file(self.place, shape))
        masks = np.flatnonzero(self.ids.ravel() == mask_token(self.place.spec))
        self.rows = {False: np.arange(self.ids.size), True: masks}
        self.seconds[masked] = SMALL
        first = self.run(masked)
        self.run(masked)
        return {
            "load_seconds": self.load_seconds,
            "first_seconds": first,
            "peak_bytes": peak_bytes(),
        }

    def run(self, masked: bool) -> float:
        """Seconds of one forward."""
        feeds = {"input_ids": self.ids, "rows": self.rows[masked]}
        if self.seconds[masked] < SMALL:
            self.session.run(None, feeds)
        start = time.perf_counter()
        (self.out[masked],) = self.session.run(None, feeds)
        self.seconds[masked] = time.perf_counter() - start
        return self.seconds[masked]

    def finish(self, masked: bool, path: Path) -> bool:
        """Writes some rows of the last logits to a file, as ``cpu_suite.served.Served.finish`` does."""
        logits = self.out[masked]
        kept = {"masked": logits if masked else logits[self.rows[True]]}
        if not masked:
            kept["all"] = logits
        np.savez(path, **{name: some(rows) for name, rows in kept.items()})
        return True


def mask_token(spec: ModelSpec) -> int:
    """The id of the mask token."""
    return spec.vocab - 1


def ids_file(place: Place, shape: Shape) -> Path:
    """Where the token ids of a shape lie."""
    return place.folder / f"ids-{shape}.npy"
