"""The lines of the results: checks, single kernels, whole models."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

from cpu_suite.rows import quotient


@dataclasses.dataclass
class Check:
    """One comparison with what is known to be right.

    Attributes:
        name: What was compared, on which shape.
        passed: None where it could not run, in which case ``detail`` says why.
        detail: How far apart, or why not.
    """

    name: str
    passed: bool | None
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass
class KernelRow:
    """One kernel on one shape.

    Attributes:
        kernel: Its name and bits.
        shape: For example ``4096x12288``.
        tokens: Rows.
        operations: Additions and multiplications.
        bytes: Read and written once.
        seconds: Median of a call, operands not in the cache.
        bf16_seconds: Median of what bf16 would run instead, in the same rounds.
        ceiling: Operations a second of the fastest int8 product of the run.
        reason: Why there are no figures.
    """

    kernel: str
    shape: str
    tokens: int
    operations: int = 0
    bytes: int = 0
    seconds: float | None = None
    bf16_seconds: float | None = None
    ceiling: float | None = None
    reason: str = ""

    @property
    def rate(self) -> float | None:
        """Operations a second."""
        return quotient(float(self.operations), self.seconds) if self.operations else None

    @property
    def share(self) -> float | None:
        """Share of the ceiling."""
        return quotient(self.rate, self.ceiling)

    @property
    def bandwidth(self) -> float | None:
        """Bytes a second."""
        return quotient(float(self.bytes), self.seconds)

    @property
    def ratio(self) -> float | None:
        """Speed as a multiple of bf16's."""
        return quotient(self.bf16_seconds, self.seconds)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, the derived ones too."""
        return _with(self, "rate", "share", "bandwidth", "ratio")


@dataclasses.dataclass
class ModelRow:
    """One variant on one model, shape, kind of logits and task.

    Attributes:
        model: Its name.
        shape: For example ``1x1024``.
        variant: Its name.
        kind: ``full``, ``peer`` or ``ours``.
        masked: Whether logits are of the masked tokens only.
        task: ``forward`` or ``generation``.
        tokens: Of a forward: its tokens; of a generation: the tokens that it makes.
        steps: Forwards of one measurement.
        seconds: Of every measurement.
        bf16_seconds: Median of the fastest bf16 variant in the same rounds.
        weight_bytes: What a forward reads: embedding, blocks, head, tables.
        peak_bytes: What the variant holds, and the most that a forward or step adds to it.
        bf16_weight_bytes: ``weight_bytes`` of bf16.
        bf16_peak_bytes: Smallest ``peak_bytes`` of the bf16 variants in the same rounds.
        head: Type in which the head is multiplied.
        note: What a reader must know.
        reason: Why there are no figures.
        floats: The type that ``bf16`` in names stands for in this run.
    """

    model: str
    shape: str
    variant: str
    kind: str
    masked: bool
    task: str
    tokens: int
    steps: int = 1
    seconds: list[float] = dataclasses.field(default_factory=list)
    bf16_seconds: float | None = None
    weight_bytes: int | None = None
    peak_bytes: int | None = None
    bf16_weight_bytes: int | None = None
    bf16_peak_bytes: int | None = None
    head: str = ""
    note: str = ""
    reason: str = ""
    floats: str = "bf16"

    @property
    def median(self) -> float | None:
        """Median seconds; None where nothing was measured."""
        return None if self.reason or not self.seconds else statistics.median(self.seconds)

    @property
    def milliseconds(self) -> float | None:
        """Of a forward or step."""
        return None if self.median is None else 1e3 * self.median / self.steps

    @property
    def tokens_per_second(self) -> float | None:
        """By the median."""
        return quotient(float(self.tokens), self.median)

    @property
    def ratio(self) -> float | None:
        """Speed as a multiple of the fastest bf16 variant's."""
        return quotient(self.bf16_seconds, self.median)

    @property
    def weight_share(self) -> float | None:
        """Weights as a share of bf16's."""
        return quotient(self.weight_bytes, self.bf16_weight_bytes)

    @property
    def peak_share(self) -> float | None:
        """Peak memory as a share of bf16's."""
        return quotient(self.peak_bytes, self.bf16_peak_bytes)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, the derived ones too."""
        derived = ("milliseconds", "tokens_per_second", "ratio", "weight_share", "peak_share")
        return _with(self, *derived)


def _with(row: Any, *derived: str) -> dict[str, Any]:
    return {**dataclasses.asdict(row), **{name: getattr(row, name) for name in derived}}
