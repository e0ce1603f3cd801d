"""The harness's stock tasks with their data taken from local files: same prompts, no network."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lm_eval.tasks  # pyright: ignore[reportMissingImports]
from lm_eval.tasks._index import Kind  # pyright: ignore[reportMissingImports]
from lm_eval.tasks._yaml_loader import load_yaml  # pyright: ignore[reportMissingImports]

from starquant_fx.errors import InputError, cause
from starquant_fx.integrations.harness.local_files import find, need, read_rows
from starquant_fx.integrations.harness.programs import ProgramTests, build_programs
from starquant_fx.integrations.harness.task_table import (
    TASKS,
    LocalTask,
    check_names,
    task_of,
    unknown_task,
)

STOCK = Path(lm_eval.tasks.__file__).parent
SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")


def local_tasks(
    names: Sequence[str],
    data: str | Path,
    *,
    num_fewshot: int | None = None,
    allow_code_execution: bool = False,
) -> Any:
    """Returns a task manager of the harness whose tasks read local files.

    Nothing but the data's place differs from the stock configurations: prompts, choices, filters and metrics are the
    harness's own. HumanEval's metric runs the programs in a limited subprocess instead.

    Args:
        names: Tasks or groups of ``TASKS``, or subjects such as ``mmlu_anatomy``.
        data: Folder of the files.
        num_fewshot: Examples in each prompt; None = as in LLaDA's published evaluation.
        allow_code_execution: Whether programs that the model writes may be run, which HumanEval needs.

    Returns:
        For ``lm_eval.simple_evaluate(..., tasks=names, task_manager=...)``.

    Raises:
        InputError: Unknown task, missing or malformed file, or code execution that is not allowed.
    """
    check_names(names, allow_code_execution=allow_code_execution)
    folders: Any = sorted({STOCK / task_of(name).stock for name in names})
    manager = lm_eval.tasks.TaskManager(include_path=folders, include_defaults=False)
    index = manager.task_index
    for name in names:
        if name not in index:
            raise unknown_task(name, [*TASKS, *index])
        for member in _members(name, index):
            entry = index[member]
            entry.cfg = _local_config(member, entry.yaml_path, Path(data), num_fewshot)
            entry.yaml_path = None
    return manager


def _members(name: str, index: dict[str, Any]) -> list[str]:
    """The tasks that a name stands for."""
    entry = index[name]
    if entry.kind is Kind.TAG:
        return sorted(entry.tags)
    if entry.kind is Kind.GROUP:
        return [task for child in entry.cfg["task"] for task in _members(child, index)]
    return [name]


def _local_config(name: str, stock: Path | None, data: Path, shots: int | None) -> dict[str, Any]:
    """A task's stock configuration with its splits read from local files."""
    task = task_of(name)
    if stock is None:  # named twice
        return {}
    runs_programs = task.answer == "program"
    config: dict[str, Any] = load_yaml(stock, resolve_func=not runs_programs)
    subject = config.get("dataset_name") if "subject" in task.fields else None
    fixed = config.get("num_fewshot") == 0 or task.shots_split is None
    count = 0 if fixed else task.shots if shots is None else shots
    files = {task.split: _file(task, name, data, subject, examples=False)}
    if count:
        files[str(task.shots_split)] = _file(task, name, data, subject, examples=True)
    which = "test_split" if config.get("test_split") else "validation_split"
    config |= dict.fromkeys(SPLITS) | {
        which: task.split,
        "fewshot_split": task.shots_split if count else None,
        "num_fewshot": count,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {k: str(v) for k, v in files.items()}},
        # The stock processing happens once, in the loader; the harness would repeat it at every look at the rows.
        "custom_dataset": functools.partial(
            _dataset, task, subject, config.pop("process_docs", None)
        ),
    }
    if runs_programs:
        config["metric_list"] = [
            {"metric": ProgramTests(), "aggregation": "mean", "higher_is_better": True}
        ]
        create = {"function": "custom", "filter_fn": build_programs}
        config["filter_list"] = [{"name": "create_test", "filter": [create]}]
    return config


def _file(task: LocalTask, name: str, data: Path, subject: str | None, *, examples: bool) -> Path:
    folder = data / task.folder
    stems = task.shots_files if examples else task.files
    if task.subject_files and subject and find(folder, stems) is None:
        stems = (*stems, task.subject_files[examples].format(subject=subject))
    return need(folder, stems, name, task.hint)


def _dataset(
    task: LocalTask,
    subject: str | None,
    process: Callable[[Any], Any] | None,
    data_files: dict[str, str],
    **_: Any,
) -> dict[str, Any]:
    """Loads the splits of a task; the harness calls it with the task's ``dataset_kwargs`` and metadata.

    Returns:
        Dataset by split.

    Raises:
        InputError: A file is malformed, or has no row of the subject.
    """
    from datasets import Dataset  # pyright: ignore[reportMissingImports]

    splits = {}
    for split, file in data_files.items():
        examples = split != task.split
        fields = (task.shots_fields if examples else None) or task.fields
        one_subject = subject is not None and task.subject_files and subject in Path(file).name
        if one_subject:
            fields = tuple(field for field in fields if field != "subject")
        rows = read_rows(Path(file), fields)
        if subject is not None and not one_subject:
            rows = [row for row in rows if row["subject"] == subject]
            if not rows:
                raise InputError(
                    f"the file has no row of the subject {subject!r}",
                    where=file,
                    expected=f"rows with subject = {subject!r}",
                    hint=task.hint,
                )
        finished = examples and task.shots_row is not None
        if finished and task.shots_row:
            rows = [task.shots_row(row) for row in rows]
        try:
            found = Dataset.from_list(rows)
        except (TypeError, ValueError) as error:  # of Arrow, whose columns have one type each
            raise InputError(
                "the rows of the file do not go together",
                where=file,
                expected="values of one type in each column",
                got=cause(error),
                hint=task.hint,
            ) from error
        splits[split] = process(found) if process and not finished else found
    return splits
