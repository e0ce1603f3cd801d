"""One line of the results."""

from __future__ import annotations

import dataclasses
from typing import Any

from cpu_suite.rows import Row, quotient


@dataclasses.dataclass
class OnnxRow(Row):
    """One variant on one model, shape and kind of logits.

    Attributes:
        fp32_seconds: Median of the float32 export in the same rounds.
        dynamic_seconds: Of ``quantize_dynamic``.
        plain_seconds: Of the variant without star's transforms, of the same flavour and bits.
        disk_bytes: Of the files that are deployed.
        gap: NELBO less that of full precision in nats a token.
        gap_low: Lower end of its 95 % interval.
        gap_high: Upper end.
        max_rel_error: max |difference| / max |logit| against the reference target on the same weights, the larger of
            both sets of session options; None where the export was not verified.
        max_rel_error_default: Under default options.
        max_rel_error_strict: Under strict ones.
        agreement: Smallest share of same most probable tokens of a call, under default options.
        block_linears: Quantized linears of blocks.
        float_fallbacks: Those of them that onnxruntime runs in floating point.
        kernels: What each quantized linear runs as, and how many.
        export_seconds: Of building and writing.
    """

    fp32_seconds: float | None = None
    dynamic_seconds: float | None = None
    plain_seconds: float | None = None
    disk_bytes: int | None = None
    gap: float | None = None
    gap_low: float | None = None
    gap_high: float | None = None
    max_rel_error: float | None = None
    max_rel_error_default: float | None = None
    max_rel_error_strict: float | None = None
    agreement: float | None = None
    block_linears: int | None = None
    float_fallbacks: int | None = None
    kernels: dict[str, int] = dataclasses.field(default_factory=dict)
    export_seconds: float | None = None

    @property
    def vs_fp32(self) -> float | None:
        """Speed as a multiple of the float32 export's."""
        return quotient(self.fp32_seconds, self.median)

    @property
    def vs_dynamic(self) -> float | None:
        """Speed as a multiple of ``quantize_dynamic``'s."""
        return quotient(self.dynamic_seconds, self.median)

    @property
    def star_adds(self) -> float | None:
        """Seconds that star's transforms take."""
        if self.median is None or self.plain_seconds is None:
            return None
        return self.median - self.plain_seconds

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, the derived ones too."""
        derived = ("vs_fp32", "vs_dynamic", "star_adds", "median")
        return {**super().to_dict(), **{name: getattr(self, name) for name in derived}}
