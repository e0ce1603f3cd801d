"""A whole run: checks, single kernels, models; what was found, and whether it may be believed."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from gpu_suite.checks import checks
from gpu_suite.clock import Clock
from gpu_suite.forwards import FORWARD, Forwards, rounds, row_of
from gpu_suite.goals import goals
from gpu_suite.kernels import Kernels, add_ceiling
from gpu_suite.memory import capacity, require_memory
from gpu_suite.options import Plan
from gpu_suite.rows import Check, KernelRow, ModelRow
from gpu_suite.specs import GpuModel
from gpu_suite.variants import ANCHORS, Subject, Variant
from starquant_fx.errors import InputError

SEED = 7
CHECKS_SHARE, KERNELS_SHARE = 0.2, 0.35
"""Shares of the run's time after which no further check, and no further single kernel, begins."""
RUNNING = "the run is not over"
WEIGHTS = {0: 3.0, 1: 4.0, 2: 2.0, 3: 1.5, 4: 1.0, 5: 1.0}
"""How the time left is shared among groups of variants."""
LATER_MODEL = 0.6
"""How much less a model after the first gets."""
PACKAGES = ("torch", "triton", "torchao", "gemlite", "humming-kernels")


@dataclasses.dataclass
class Results:
    """What a run found.

    Attributes:
        plan: What was asked for.
        checks: Correctness.
        kernels: Single kernels.
        rows: Models.
        ceiling: Operations a second of the fastest int8 product of PyTorch.
        wall_seconds: Of the whole run.
        stopped: Why the run is not, or was not, done with all that was asked for; empty if it was.
    """

    plan: Plan
    checks: list[Check] = dataclasses.field(default_factory=list)
    kernels: list[KernelRow] = dataclasses.field(default_factory=list)
    rows: list[ModelRow] = dataclasses.field(default_factory=list)
    ceiling: float | None = None
    wall_seconds: float = 0.0
    stopped: str = RUNNING

    @property
    def failed(self) -> bool:
        """Whether a kernel was wrong, in which case no figure of it counts."""
        return any(check.passed is False for check in self.checks)

    @property
    def correct(self) -> bool | None:
        """Whether all kernels that were checked were right; None: none was checked."""
        known = [check.passed for check in self.checks if check.passed is not None]
        return all(known) if known else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "complete": not self.stopped,
            "stopped": self.stopped,
            "environment": environment(self.plan.device),
            "correct": self.correct,
            "checks": [check.to_dict() for check in self.checks],
            "ceiling": self.ceiling,
            "kernels": [row.to_dict() for row in self.kernels],
            "rows": [row.to_dict() for row in self.rows],
            "goals": goals(self.rows),
            "wall_seconds": self.wall_seconds,
        }


def environment(device: torch.device) -> dict[str, Any]:
    """Device and versions."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    found: dict[str, Any] = {"python": platform.python_version(), "versions": versions}
    if device.type != "cuda":
        return {**found, "device": device.type}
    facts = torch.cuda.get_device_properties(device)
    return {
        **found,
        "device": facts.name,
        "capability": f"{facts.major}.{facts.minor}",
        "memory_bytes": facts.total_memory,
        "cuda": torch.version.cuda,
    }


@torch.no_grad()
def run(results: Results, say: Callable[[str], None], keep: Callable[[], None]) -> None:
    """Checks and measures.

    Args:
        results: Of a plan; what is found is added to it one by one, so that it holds all of it whenever this ends.
        say: Takes lines of progress.
        keep: Called when something was added.
    """
    began, plan = time.monotonic(), results.plan
    clock = Clock(plan.device)

    def after(share: float) -> Callable[[], bool]:
        return lambda: time.monotonic() > began + share * plan.budget

    def added() -> None:
        results.wall_seconds = time.monotonic() - began
        keep()

    if "checks" in plan.parts:
        say("checking kernels")
        share = CHECKS_SHARE if len(plan.parts) > 1 else 1.0
        for check in checks(plan.specs, plan.work, plan.device, after(share)):
            results.checks.append(check)
            added()
        clock.release()
    if "kernels" in plan.parts:
        say("measuring single kernels")
        generator = torch.Generator(plan.device).manual_seed(SEED)
        kernels = Kernels(clock, plan.work, plan.repeats, generator)
        share = KERNELS_SHARE if "models" in plan.parts else 1.0
        for kernel in kernels.rows(plan.specs, after(share)):
            results.kernels.append(kernel)
            results.ceiling = add_ceiling(results.kernels)
            added()
    if "models" in plan.parts:
        for row in models(plan, clock, began + plan.budget, say):
            results.rows.append(row)
            added()
    results.stopped = ""
    added()


def jobs(plan: Plan) -> list[tuple[GpuModel, list[Variant], float]]:
    """Groups of variants on models with their weights, those that matter most first."""
    anchors = [one for one in plan.variants if one.group == 0]
    groups = sorted({one.group for one in plan.variants} - {0}) or [0]
    found = []
    for group in groups:
        for place, spec in enumerate(plan.specs):
            some = [one for one in plan.variants if one.group == group and group]
            found.append((spec, [*anchors, *some], WEIGHTS[group] * LATER_MODEL**place))
    return found


def models(plan: Plan, clock: Clock, end: float, say: Callable[[str], None]) -> Iterator[ModelRow]:
    """The rows of all jobs; the bf16 variants are measured beside every group, and their first rows are kept."""
    left = jobs(plan)
    seen: set[str] = set()
    free = capacity(plan.device)
    while left:
        share = left[0][2] / sum(weight for _, _, weight in left)
        spec, variants, _ = left.pop(0)
        until = time.monotonic() + share * (end - time.monotonic())
        first = spec.name not in seen
        seen.add(spec.name)
        own = [one for one in variants if one.group]
        if own and all(one.missing() for one in own) and not first:
            yield from _absent(plan, spec, own)
            continue
        try:
            require_memory([spec], plan.sizes, free)
        except InputError as refused:
            why = f"no room: {refused.expected} needed, {refused.got}"
            yield from _absent(plan, spec, variants if first else own, why)
            continue
        work = Forwards(
            Subject(spec, plan.device),
            clock,
            plan.repeats,
            plan.work.steps,
            lambda until=until: until - time.monotonic(),  # type: ignore[misc]
            say,
            free,
        )
        for row in work.rows(variants, plan.sizes):
            if first or row.variant not in ANCHORS:
                yield row
        del work
        clock.release()


def _absent(
    plan: Plan, spec: GpuModel, variants: list[Variant], why: str = ""
) -> Iterator[ModelRow]:
    """Rows of variants that are not installed or have no room, without building what they would be compared with."""
    for task, masked, shape in rounds(plan.sizes):
        if task == FORWARD:
            for one in variants:
                row = row_of(spec, one, shape, masked, task, plan.work.steps)
                row.reason = one.missing() or why
                yield row
