"""Runs the harness on models one after the other and gathers what it found."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from lm_eval.evaluator import evaluate  # pyright: ignore[reportMissingImports]

from starquant_fx.integrations.harness.model import StarQuantLM

# The harness's own default; examples in the prompt are the same in every run.
FEWSHOT_SEED = 1234


class Figure(NamedTuple):
    """One metric of one task.

    Attributes:
        task: The task or group.
        metric: The metric, and the filter of the answers where there is one, as the harness names them.
        value: Its mean.
        stderr: The harness's standard error; None where it has none.
        samples: Rows that it is taken over.
        shots: Examples in each prompt.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    samples: int
    shots: int


@dataclasses.dataclass(frozen=True)
class Run:
    """One model's results.

    Attributes:
        name: The recipe's name, or "full precision".
        figures: All metrics of all tasks.
        seconds: Time that the evaluation took, compilation left out.
        truncated: Requests whose context was cut on the left to fit the model.
    """

    name: str
    figures: list[Figure]
    seconds: float
    truncated: int


def run(
    name: str,
    lm: StarQuantLM,
    loaded: dict[str, Any],
    names: Sequence[str],
    *,
    limit: float | None = None,
    chat_template: bool = False,
) -> Run:
    """Evaluates one model.

    Args:
        name: What to call it.
        lm: The model.
        loaded: The tasks: ``local_tasks(...).load(names)``. They can be used again for the next model.
        names: The tasks' and groups' names.
        limit: Rows a task at most, or below 1 a share; None = all.
        chat_template: Put prompts into the tokenizer's chat template.

    Returns:
        Its results.

    Raises:
        InputError: A request does not fit the model, or there is no chat template.
    """
    if chat_template:
        lm.texts.require_chat_template()
    for task in loaded["tasks"].values():
        task.set_fewshot_seed(FEWSHOT_SEED)  # again before each run: the sampler moves on
    before, start = lm.fitting.truncated, time.perf_counter()
    found: Any = evaluate(
        lm,
        loaded,
        limit=limit,  # pyright: ignore[reportArgumentType] # a share is accepted too
        log_samples=False,
        apply_chat_template=chat_template,
        confirm_run_unsafe_code=True,
    )
    figures = [figure for task in names for figure in _figures(task, found)]
    return Run(name, figures, time.perf_counter() - start, lm.fitting.truncated - before)


def _figures(task: str, found: dict[str, Any]) -> list[Figure]:
    members = found["group_subtasks"].get(task) or [task]
    samples = sum(_leaves(member, found, "n-samples") for member in members)
    shots = max(_leaves(member, found, "n-shot", most=True) for member in members)
    figures = []
    for key, value in found["results"][task].items():
        metric, comma, which = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        error = found["results"][task].get(f"{metric}_stderr,{which}")
        figures.append(
            Figure(
                task,
                metric if which == "none" else f"{metric} ({which})",
                float(value),
                float(error) if isinstance(error, (int, float)) else None,
                samples,
                shots,
            )
        )
    return figures


def _leaves(task: str, found: dict[str, Any], what: str, *, most: bool = False) -> int:
    """A count of a task, or over the tasks of a group: the sum, or the most."""
    members = found["group_subtasks"].get(task)
    if members:
        counts = [_leaves(member, found, what, most=most) for member in members]
        return max(counts) if most else sum(counts)
    value = found[what].get(task, 0)
    return int(value["effective"] if isinstance(value, dict) else value)
