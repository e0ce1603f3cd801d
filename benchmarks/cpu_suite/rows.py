"""One line of the results."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any


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
        load_seconds: From the request to build until everything is loaded, without the import of libraries.
        first_seconds: Of the first forward of this shape, in which compiled variants compile.
        weight_bytes: Of the blocks' linears with scales and transforms.
        peak_bytes: Most resident memory of the process up to this shape; None where the process had run the logits of
            all tokens too.
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
    load_seconds: float | None = None
    first_seconds: float | None = None
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
        return quotient(self.bf16_seconds, self.median)

    @property
    def share(self) -> float | None:
        """Share of the speed of the int8 limit."""
        return quotient(self.limit_seconds, self.median)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, the derived ones too."""
        derived = ("tokens_per_second", "ratio", "share")
        return {**dataclasses.asdict(self), **{name: getattr(self, name) for name in derived}}


def quotient(above: float | None, below: float | None) -> float | None:
    """One number by another; None if one of them is missing, or the other is zero."""
    return None if above is None or not below else above / below
