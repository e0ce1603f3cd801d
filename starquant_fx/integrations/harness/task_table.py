"""The paper's nine tasks: which stock configuration, which files, which fields, how many examples in the prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from starquant_fx.errors import InputError, nearest

HOLDS_DATA = "docs/harness.md lists the files; --data names their folder"


@dataclasses.dataclass(frozen=True)
class LocalTask:
    """One of the nine.

    Attributes:
        stock: Folder of the harness that holds its configuration.
        folder: Folder of its files below the data folder.
        split: The split that is evaluated, as the stock configuration names it.
        files: Stems of that split's file, the first found is taken.
        fields: Fields that every row must have.
        metric: The metric that the paper's table shows.
        shots: Examples in the prompt in LLaDA's published evaluation, which the paper follows.
        shots_split: The stock name of the split that examples come from; None = the task has none.
        shots_files: Stems of that split's file.
        shots_fields: Its fields where they differ.
        shots_row: Turns a row of it into one of the evaluated split after the stock processing.
        subject_files: For one file a subject: (split's, examples') stems with ``{subject}``.
        answer: Where answers come from, for the plan: "likelihood", "generation" or "program".
        hint: What to do when a file is missing.
    """

    stock: str
    folder: str
    split: str
    files: tuple[str, ...]
    fields: tuple[str, ...]
    metric: str = "acc"
    shots: int = 0
    shots_split: str | None = None
    shots_files: tuple[str, ...] = ()
    shots_fields: tuple[str, ...] | None = None
    shots_row: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    subject_files: tuple[str, str] | None = None
    answer: str = "likelihood"
    hint: str = HOLDS_DATA


def _hellaswag_example(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the processed training file, which keeps the index of the ending as ``gold``."""
    return {"query": row["query"], "choices": row["choices"], "label": str(row["gold"])}


TRAIN = ("train",)
TASKS: dict[str, LocalTask] = {
    "truthfulqa_mc2": LocalTask(
        "truthfulqa",
        "truthfulqa",
        "validation",
        ("multiple_choice_hf", "validation"),
        ("question", "mc1_targets", "mc2_targets"),
    ),
    "arc_challenge": LocalTask(
        "arc",
        "arc_challenge",
        "test",
        ("test",),
        ("question", "choices", "answerKey"),
        shots_split="train",
        shots_files=TRAIN,
    ),
    "hellaswag": LocalTask(
        "hellaswag",
        "hellaswag",
        "validation",
        ("validation",),
        ("activity_label", "ctx_a", "ctx_b", "endings", "label"),
        shots_split="train",
        shots_files=("train_processed",),
        shots_fields=("query", "choices", "gold"),
        shots_row=_hellaswag_example,
    ),
    "winogrande": LocalTask(
        "winogrande",
        "winogrande",
        "validation",
        ("validation",),
        ("sentence", "option1", "option2", "answer"),
        shots=5,
        shots_split="train",
        shots_files=("train_xl", "train"),
    ),
    "piqa": LocalTask(
        "piqa",
        "piqa",
        "validation",
        ("validation",),
        ("goal", "sol1", "sol2", "label"),
        shots_split="train",
        shots_files=TRAIN,
    ),
    "mmlu": LocalTask(
        "mmlu/default",
        "mmlu",
        "test",
        ("test",),
        ("question", "subject", "choices", "answer"),
        shots=5,
        shots_split="dev",
        shots_files=("dev",),
    ),
    "ceval-valid": LocalTask(
        "ceval",
        "ceval",
        "val",
        ("val", "validation"),
        ("question", "subject", "A", "B", "C", "D", "answer"),
        shots=5,
        shots_split="dev",
        shots_files=("dev",),
        subject_files=("val/{subject}_val", "dev/{subject}_dev"),
        hint="C-Eval (CC BY-NC-SA 4.0) must be brought: unpack its published ceval-exam.zip here, so that "
        "val/law_val.csv and dev/law_dev.csv lie in this folder",
    ),
    "gsm8k": LocalTask(
        "gsm8k",
        "gsm8k",
        "test",
        ("test",),
        ("question", "answer"),
        metric="exact_match",
        shots=4,
        shots_split="train",
        shots_files=TRAIN,
        answer="generation",
    ),
    "humaneval": LocalTask(
        "humaneval",
        "humaneval",
        "test",
        ("test",),
        ("prompt", "entry_point", "test"),
        metric="pass_at_1",
        answer="program",
    ),
}
"""Stock name of the task or group -> how it is read."""


def task_of(name: str) -> LocalTask:
    """Returns how a task, or a subject of MMLU or C-Eval such as ``mmlu_anatomy``, is read.

    Raises:
        InputError: There is no such task; the nearest name is offered.
    """
    if name in TASKS:
        return TASKS[name]
    for prefix, group in (("mmlu_", "mmlu"), ("ceval-valid_", "ceval-valid")):
        if name.startswith(prefix):
            return TASKS[group]
    raise unknown_task(name, TASKS)


def check_names(names: Sequence[str], *, allow_code_execution: bool) -> None:
    """Refuses names of tasks before anything is read or run.

    Raises:
        InputError: There is none, one is unknown, or one runs programs and that is not allowed.
    """
    if not names:
        raise InputError("no task is named", where="tasks", expected=", ".join(TASKS))
    for name in names:
        if task_of(name).answer == "program" and not allow_code_execution:
            raise InputError(
                f"{name} runs programs that the model writes",
                where="tasks",
                expected="allow_code_execution=True (--allow-code-execution)",
                got="no permission",
                hint="see 'Running programs' in docs/harness.md for what limits them",
            )


def unknown_task(name: str, known: Any) -> InputError:
    """The refusal of a task's name."""
    return InputError(
        f"unknown task {name!r}",
        where="tasks",
        expected=", ".join(TASKS),
        got=repr(name),
        hint=nearest(name, known),
    )
