"""One line of the results, and the flat summary of those that decide."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from cpu_suite.variants import HALVES

HEADLINE = "star-w4a4"


@dataclasses.dataclass
class Row:
    """One variant on one model, shape and number of threads.

    Attributes:
        model: Its name.
        shape: For example ``1x512``.
        threads: Threads of a forward.
        variant: Its name.
        kind: ``full``, ``limit``, ``peer`` or ``ours``.
        tokens: Tokens of a forward.
        operations: Additions and multiplications of all linears, the head included.
        seconds: Of every timed forward.
        bf16_seconds: Median of the faster bf16 variant in the same rounds.
        limit_seconds: Median of the int8 limit in the same rounds.
        weight_bytes: Of the blocks' linears with scales and transforms.
        peak_bytes: Most resident memory of the process up to this shape.
        error: Relative L2 distance of the logits from fp32's.
        head: Type in which the head is multiplied.
        note: What a reader must know.
        reason: Why there are no figures.
        masked: Whether logits are of the masked tokens only.
    """

    model: str
    shape: str
    threads: int
    variant: str
    kind: str
    tokens: int
    operations: int
    seconds: list[float] = dataclasses.field(default_factory=list)
    bf16_seconds: float | None = None
    limit_seconds: float | None = None
    weight_bytes: int | None = None
    peak_bytes: int | None = None
    error: float | None = None
    head: str = ""
    note: str = ""
    reason: str = ""
    masked: bool = False

    @property
    def median(self) -> float | None:
        """Median seconds; None where nothing was measured."""
        return None if self.reason or not self.seconds else statistics.median(self.seconds)

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens a second, by the median."""
        return None if self.median is None else self.tokens / self.median

    @property
    def ratio(self) -> float | None:
        """Speed as a multiple of the faster bf16 variant's."""
        return _quotient(self.bf16_seconds, self.median)

    @property
    def share(self) -> float | None:
        """Share of the speed of the int8 limit."""
        return _quotient(self.limit_seconds, self.median)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, the derived ones too."""
        derived = ("tokens_per_second", "ratio", "share")
        return {**dataclasses.asdict(self), **{name: getattr(self, name) for name in derived}}


def summary(rows: Sequence[Row]) -> dict[str, float | None]:
    """What decides, of one model, shape and number of threads.

    Args:
        rows: With ``star-w4a4``, fp32, bf16 and the int8 limit among them.

    Returns:
        Speed of ours as a multiple of the best bf16, fp32 and peer, its weights as a share of bf16's, and its time as a
        multiple of what its linears, the head included, take at the int8 limit's speed. None where a row is missing.
    """
    by_name = {row.variant: row for row in rows}
    ours = by_name[HEADLINE]
    halves = [by_name[name] for name in HALVES if name in by_name]
    fulls = [row for row in rows if row.variant.startswith("fp32")]
    peers = [row for row in rows if row.kind == "peer"]
    stored = next((row.weight_bytes for row in halves if row.weight_bytes), None)
    limit = next((row for row in rows if row.kind == "limit"), None)
    ceiling = None
    if limit is not None and limit.median is not None:
        ceiling = ours.operations / (limit.operations / limit.median)
    return {
        "w4a4_vs_bf16": _quotient(_fastest(halves), ours.median),
        "w4a4_vs_fp32": _quotient(_fastest(fulls), ours.median),
        "w4a4_vs_best_peer": _quotient(_fastest(peers), ours.median),
        "weights_vs_bf16": _quotient(ours.weight_bytes, stored),
        "time_vs_int8_ceiling": _quotient(ours.median, ceiling),
    }


def _fastest(rows: Sequence[Row]) -> float | None:
    return min((row.median for row in rows if row.median is not None), default=None)


def _quotient(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below
