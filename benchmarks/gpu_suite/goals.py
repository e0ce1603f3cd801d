"""What the project wants on an H200, and what a run found."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from gpu_suite.forwards import FORWARD, GENERATION
from gpu_suite.rows import ModelRow
from gpu_suite.specs import LLADA
from gpu_suite.variants import EMBED8, HEADLINE


@dataclasses.dataclass(frozen=True)
class Goal:
    """One figure of LLaDA-8B.

    Attributes:
        name: What it says.
        wanted: The bound, for example ``>= 1.5``.
        variant: Of its row.
        shape: Of its row.
        task: Of its row.
        value: Property of its row.
        masked: Whether logits are of the masked tokens only.
    """

    name: str
    wanted: str
    variant: str
    shape: str
    task: str
    value: str
    masked: bool

    def found(self, rows: Sequence[ModelRow]) -> float | None:
        """The figure, or None where it was not measured."""
        for row in rows:
            where = (row.model, row.variant, row.shape, row.task, row.masked)
            if where == (LLADA, self.variant, self.shape, self.task, self.masked):
                value: float | None = getattr(row, self.value)
                return None if row.median is None else value
        return None


GOALS = (
    Goal(
        "forward, 4x1024, logits of all tokens, times the fastest bf16",
        ">= 1.5", HEADLINE, "4x1024", FORWARD, "ratio", False,
    ),
    *(
        Goal(
            f"forward of a short block, {shape}, logits of all tokens, times the fastest bf16",
            ">= 1.9", HEADLINE, shape, FORWARD, "ratio", False,
        )
        for shape in ("1x32", "1x64")
    ),
    Goal(
        "step of a generation, 4x1024, logits of the masked tokens on both sides, times the fastest bf16",
        ">= 1.69", HEADLINE, "4x1024", GENERATION, "ratio", True,
    ),
    Goal(
        "weights with embedding and head in eight bits, share of bf16's",
        "<= 0.29", EMBED8, "1x1024", FORWARD, "weight_share", False,
    ),
    Goal(
        "peak memory at 1x1024, logits of all tokens, share of bf16's",
        "<= 0.323", EMBED8, "1x1024", FORWARD, "peak_share", False,
    ),
)  # fmt: skip


def goals(rows: Sequence[ModelRow]) -> list[dict[str, object]]:
    """Every goal with what was measured, JSON-ready."""
    return [
        {"name": goal.name, "wanted": goal.wanted, "measured": goal.found(rows)} for goal in GOALS
    ]
