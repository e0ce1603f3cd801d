"""How much a harness run computes, and how long it will take, before it starts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from lm_eval.evaluator_utils import get_sample_size  # pyright: ignore[reportMissingImports]
from rich import box
from rich.table import Table

from starquant_fx.integrations.harness.likelihood import Work
from starquant_fx.integrations.harness.model import StarQuantLM
from starquant_fx.integrations.harness.requests import Fitting
from starquant_fx.integrations.harness.run import FEWSHOT_SEED
from starquant_fx.integrations.harness.scoring import Row

PROBES = 3
# Rows that are looked at: about so many of a name, and at least so many of each of its tasks.
SAMPLES, LEAST_SAMPLES = 100, 4


class Plan(NamedTuple):
    """What a task costs.

    Attributes:
        task: The task; subjects of a group are added up.
        requests: The harness's requests: choices, or texts to generate; estimated from some rows, as all of this.
        work: Sequences and tokens that go through the model.
    """

    task: str
    requests: int
    work: Work


def plan_tasks(
    lm: StarQuantLM, loaded: dict[str, Any], names: Sequence[str], limit: float | None = None
) -> list[Plan]:
    """Builds requests of some rows, spread evenly over each task, and counts; the model does not run.

    Args:
        lm: The model.
        loaded: ``local_tasks(...).load(names)``.
        names: The tasks' and groups' names.
        limit: Rows a task at most, or below 1 a share; None = all.

    Returns:
        A plan for each name.

    Raises:
        InputError: A request does not fit the model.
    """
    plans = []
    for name in names:
        group = loaded["groups"].get(name)
        tasks = [loaded["tasks"][name]] if group is None else group.get_all_tasks()
        most = max(LEAST_SAMPLES, SAMPLES // len(tasks))
        parts = [_part(lm, task, get_sample_size(task, limit), most) for task in tasks]
        requests, rows, tokens = (round(sum(column)) for column in zip(*parts, strict=True))
        plans.append(Plan(name, requests, Work(rows, tokens)))
    return plans


def _part(lm: StarQuantLM, task: Any, limit: int | None, most: int) -> tuple[float, float, float]:
    """Requests, sequences and tokens of one task, from at most so many of its rows."""
    rows = min(len(task.eval_docs), limit or len(task.eval_docs))
    count = min(rows, most)
    task.set_fewshot_seed(FEWSHOT_SEED)
    task.build_all_requests(samples=[i * rows // count for i in range(count)])
    work = _work(lm, task.instances)
    scale = rows / count
    return len(task.instances) * scale, work.rows * scale, work.tokens * scale


def _work(lm: StarQuantLM, requests: Sequence[Any]) -> Work:
    """Counts what requests of one kind cost."""
    if requests[0].request_type == "generate_until":
        return lm.generator.work(*lm.generation(list(requests)))
    fitting = Fitting(lm.max_length, lm.fitting.mask_id)  # of its own: nothing is cut yet
    texts = [request.args for request in requests]
    encoded = [(text, *lm._encode_pair(text[0] or " ", text[1])) for text in texts]
    return lm.answers.work([fitting.request(request) for request in encoded])


def tokens_per_second(lm: StarQuantLM, length: int) -> float:
    """Measures the model's speed on full batches of rows of a length, half of each row masked."""
    scorer = lm.answers.scorer
    half = max(1, length // 2)
    masked = torch.ones(half, dtype=torch.bool)
    filler = lm.prefix_token_id
    row = Row(0, [filler] * max(1, length - half), [filler] * half, masked, 1.0)
    seconds = []
    for _ in range(PROBES):
        start = time.perf_counter()
        list(scorer.score([row] * scorer.batch_size))
        seconds.append(time.perf_counter() - start)
    # The first pass also pays for memory and compiled kernels.
    return scorer.batch_size * row.length / min(seconds)


def plan_table(lm: StarQuantLM, plans: Sequence[Plan], models: int = 1) -> Table:
    """The plans with the time that they would take at the speed measured now.

    Args:
        lm: The model.
        plans: What its tasks cost.
        models: So many models are to be run, full precision and recipes.

    Returns:
        A row for each task, and one for all of them and all models.
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        caption="Estimated from about 100 rows a task. Forward passes count sequences, not batches. "
        "Hours: at this model's speed as measured now, on one batch a task. Compilations come on top, and recipes "
        "may run slower than full precision.",
        caption_justify="left",
    )
    table.add_column("task")
    for title in ("requests", "forward passes", "tokens", "hours"):
        table.add_column(title, justify="right")
    total = 0.0
    for plan in plans:
        speed = tokens_per_second(lm, round(plan.work.tokens / plan.work.rows))
        hours = plan.work.tokens / speed / 3600
        total += hours
        counts = (plan.requests, plan.work.rows, plan.work.tokens)
        table.add_row(plan.task, *(f"{count:,}" for count in counts), f"{hours:.2f}")
    work = [plan.work for plan in plans]
    counts = (
        sum(plan.requests for plan in plans),
        sum(one.rows for one in work),
        sum(one.tokens for one in work),
    )
    table.add_section()
    table.add_row(
        f"all, {models} model{'s' * (models > 1)}",
        *(f"{models * count:,}" for count in counts),
        f"{models * total:.2f}",
    )
    return table
