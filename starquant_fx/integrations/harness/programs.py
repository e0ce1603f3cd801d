"""HumanEval's metric: does the program that the model wrote pass its tests?"""

from __future__ import annotations

import dataclasses
from typing import Any

from starquant_fx.integrations.harness.sandbox import Limits, run_program


def build_programs(resps: list[list[str]], docs: list[dict[str, Any]]) -> list[list[str]]:
    """Puts each completion behind the prompt that it completes; a filter of the harness."""
    return [
        [doc["prompt"] + text for text in texts] for texts, doc in zip(resps, docs, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class ProgramTests:
    """The share of a problem's programs that pass its tests, with one program a problem pass@1.

    Attributes:
        limits: What each program may use.
    """

    limits: Limits = dataclasses.field(default_factory=Limits)
    __name__ = "pass_at_1"

    def __call__(self, references: list[str], predictions: list[list[str]]) -> float:
        """Runs each program followed by its problem's tests.

        Args:
            references: The tests, one a problem.
            predictions: The programs, some a problem.

        Returns:
            The mean share of passing programs.
        """
        shares = []
        for tests, programs in zip(references, predictions, strict=True):
            passed = [run_program(f"{text}\n{tests}", self.limits).passed for text in programs]
            shares.append(sum(passed) / len(passed))
        return sum(shares) / len(shares)
