"""The measurement of one model: preparations, NELBO, then the variants take turns."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

from cpu_suite.measure import Medians, Run, Say
from cpu_suite.prepare import prepare
from cpu_suite.rows import Row
from cpu_suite.specs import Place, Shape
from cpu_suite.variants import LOGITS, Variant
from onnx_suite import reports
from onnx_suite.rows import OnnxRow
from onnx_suite.served import ids_file
from onnx_suite.variants import ANCHORS, COMPILED, DYNAMIC, FULL, Export, Session, jobs, measured

VERIFIED: tuple[str, ...] = (
    "max_rel_error",
    "max_rel_error_default",
    "max_rel_error_strict",
    "agreement",
)
VERIFIED += ("block_linears", "float_fallbacks", "export_seconds")


class OnnxRun(Run):
    """``cpu_suite.measure.Run`` with the anchors and rows of this benchmark."""

    plain: dict[str, str] = {}  # noqa: RUF012  (replaced by ``measure``)

    def measure(
        self, variants: Sequence[Variant], shapes: Sequence[Shape], failed: dict[str, str]
    ) -> list[Any]:
        """Measures all variants; see there."""
        self.plain = {v.name: v.plain for v in variants if isinstance(v, Session)}
        return super().measure(variants, shapes, failed)

    def anchors(self) -> Sequence[str]:
        """Variants that run beside every group."""
        return ANCHORS

    def kinds(self, variant: Variant) -> tuple[bool, ...]:
        """All variants run both ways where both are asked for."""
        return LOGITS[self.logits]

    def new_row(self, **values: Any) -> Row:
        """A row without figures."""
        return OnnxRow(**values)

    def relate(self, row: Row, medians: Medians) -> None:
        """Notes the seconds of what a row is compared with."""
        assert isinstance(row, OnnxRow)
        super().relate(row, medians)
        row.fp32_seconds, row.dynamic_seconds = medians.get(FULL), medians.get(DYNAMIC)
        row.plain_seconds = medians.get(self.plain.get(row.variant, ""))


@dataclasses.dataclass(frozen=True)
class Task:
    """What is measured of one model.

    Attributes:
        place: The model.
        exports: What is exported.
        sizes: Token shapes; none: exports are only verified.
        compiled: Whether PyTorch's compiled bf16 is measured.
        nelbo: Whether the NELBO is.
        logits: ``all``, ``masked`` or ``both``.
        repeats: Timed forwards of each variant.
        patience: Seconds that one request may take.
    """

    place: Place
    exports: tuple[Export, ...]
    sizes: tuple[Shape, ...]
    compiled: bool
    nelbo: bool
    logits: str
    repeats: int
    patience: float

    def run(self, say: Say) -> list[OnnxRow]:
        """Prepares and measures; a variant that fails is a row with the reason."""
        place, variants = self.place, measured(self.exports, self.compiled)
        made = prepare(place, self._jobs(), self.patience, say)
        sessions = [v for v in variants if isinstance(v, Session)]
        failed = {v.name: made[v.job] for v in sessions if v.job in made}
        if self.sizes:
            _write_ids(place, self.sizes)
            one = OnnxRun(place, self.logits, self.repeats, self.patience, say)
            rows = one.measure(variants, self.sizes, failed)
        else:
            rows = [self._unmeasured(v, failed) for v in sessions if v.kind == "ours"]
        told = self._nelbo([v for v in sessions if v.name not in failed], say)
        for row in rows:
            self._complete(row, {v.name: v for v in sessions}.get(row.variant), told)
        return rows

    def _jobs(self) -> list[Variant]:
        return [job for job in jobs(self.exports) if self.sizes or job.module == "exports"]

    def _unmeasured(self, variant: Session, failed: dict[str, str]) -> OnnxRow:
        """A row of an export that is only verified."""
        row = OnnxRow(self.place.spec.name, "-", self.place.threads, variant.name, "ours", 0, 0)
        row.reason = failed.get(variant.name, "")
        return row

    def _nelbo(self, sessions: list[Session], say: Say) -> dict[str, str]:
        """Measures NELBOs; returns the reasons of those that failed, by preparation."""
        if not self.nelbo or not self.place.spec.shipped:
            return {}
        from onnx_suite.gaps import jobs as measuring

        return prepare(self.place, measuring(sessions), self.patience, say)

    def _complete(self, row: OnnxRow, variant: Session | None, told: dict[str, str]) -> None:
        """Adds what does not depend on the rounds."""
        from onnx_suite.gaps import gap, job_name

        folder = self.place.folder / "bf16" if row.variant == COMPILED else None
        if variant is not None:
            name = variant.options[0]
            folder = reports.export_folder(self.place, name)
            found = reports.read(self.place, name)
            row.reason = row.reason or found.get("reason", "")
            for key in VERIFIED:
                setattr(row, key, found.get(key))
            row.kernels = dict(collections.Counter(found.get("kernels", {}).values()))
        row.disk_bytes = None if folder is None else reports.disk_bytes(folder)
        failure = told.get(job_name(row.variant))
        if failure:
            row.note = f"NELBO: {failure}"
        elif self.nelbo and (measured_gap := gap(self.place, row.variant)) is not None:
            row.gap, row.gap_low, row.gap_high = dataclasses.astuple(measured_gap)


def _write_ids(place: Place, sizes: Sequence[Shape]) -> None:
    import numpy as np

    from cpu_suite.weights import token_ids

    for shape in sizes:
        np.save(ids_file(place, shape), token_ids(place.spec, shape).numpy())
