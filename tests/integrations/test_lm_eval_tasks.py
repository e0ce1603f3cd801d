"""The paper's nine tasks from local files: the stock prompts, no network, clear refusals."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tests import small_models
from tests.integrations.harness_cases import NINE, tokenizer, write_jsonl, write_nine

pytest.importorskip("lm_eval", reason="the lm-evaluation-harness is not installed (extra 'eval')")

from lm_eval.tasks._yaml_loader import load_yaml  # pyright: ignore[reportMissingImports]

from starquant_fx.integrations.harness.plan import plan_table, plan_tasks
from starquant_fx.integrations.harness.programs import ProgramTests
from starquant_fx.integrations.harness.results import results_json, results_table
from starquant_fx.integrations.harness.run import run
from starquant_fx.integrations.harness.sandbox import Limits
from starquant_fx.integrations.harness.task_table import task_of
from starquant_fx.integrations.harness.tasks import STOCK, local_tasks
from starquant_fx.integrations.lm_eval import StarQuantLM

SHARED = Path("../shared/data")


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_nine(folder)
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError(f"a connection was tried: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def load(names: Any, data: Path, **options: Any) -> dict[str, Any]:
    names = [names] if isinstance(names, str) else list(names)
    manager = local_tasks(names, data, allow_code_execution=True, **options)
    loaded: dict[str, Any] = manager.load(names)
    return loaded


def small_lm(**options: Any) -> StarQuantLM:
    return StarQuantLM(
        small_models.model("llada"), tokenizer(), mc_num=2, gen_length=4, steps=2, **options
    )


def test_all_nine_run_from_local_files(nine: Path) -> None:
    loaded = load(NINE, nine)
    assert sorted(loaded["tasks"]) == sorted(NINE)
    done = run("small", small_lm(), loaded, NINE, limit=1)
    shown = {(f.task, f.metric.split()[0]) for f in done.figures}
    expected = {(name, task_of(name).metric) for name in NINE}
    assert expected <= shown
    assert all(0 <= figure.value <= 1 for figure in done.figures)
    assert {f.task: f.samples for f in done.figures} == dict.fromkeys(NINE, 1)
    shots = {figure.task: figure.shots for figure in done.figures}
    few = {"winogrande": 5, "mmlu_anatomy": 5, "ceval-valid_law": 5, "gsm8k": 4}
    assert shots == dict.fromkeys(NINE, 0) | few


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not there")
def test_all_but_ceval_run_from_the_shared_files() -> None:
    names = [name for name in NINE if not name.startswith("ceval")]
    done = run(
        "small", small_lm(batch_size=64, max_length=256), load(names, SHARED), names, limit=2
    )
    assert {f.task: f.samples for f in done.figures} == dict.fromkeys(names, 2)
    assert done.truncated > 0


@pytest.mark.parametrize("name", NINE)
def test_prompts_and_filters_are_the_stock_ones(nine: Path, name: str) -> None:
    task = load(name, nine)["tasks"][name]
    folder = STOCK / task_of(name).stock
    stem = "default" if name == "winogrande" else name
    stock = load_yaml(folder / f"{stem}.yaml", resolve_func=False)
    for key in (
        "doc_to_text",
        "doc_to_target",
        "doc_to_choice",
        "generation_kwargs",
        "description",
    ):
        own = task.get_config(key)
        if not callable(own):
            assert own == stock.get(key, "" if key == "description" else None), key
    assert task.get_config("output_type") == stock["output_type"]


def test_documents_reach_the_prompts(nine: Path) -> None:
    loaded = load(["arc_challenge", "hellaswag", "mmlu_anatomy", "ceval-valid_law"], nine)["tasks"]
    for task in loaded.values():
        task.set_fewshot_seed(1234)
        task.build_all_requests(limit=1)
    prompts = {name: task.instances[0].args for name, task in loaded.items()}
    assert prompts["arc_challenge"] == ("Question: w3 w4\nAnswer:", " w5 w6")
    assert prompts["hellaswag"] == ("w3: w4 w5. He", " w6")
    # Five examples of the same subject, none of another.
    assert prompts["mmlu_anatomy"][0].count("w50\nA. a") == 5
    assert "w99" not in prompts["mmlu_anatomy"][0]
    assert prompts["ceval-valid_law"][0].count("\u7b54\u6848\uff1a C") == 5


def test_examples_in_prompts_can_be_chosen(nine: Path) -> None:
    loaded = load(["arc_challenge", "hellaswag"], nine, num_fewshot=2)["tasks"]
    for task in loaded.values():
        task.set_fewshot_seed(1234)
        task.build_all_requests(limit=1)
    arc, swag = (loaded[name].instances[0].args[0] for name in ("arc_challenge", "hellaswag"))
    assert arc.count("Question: w9") == 2
    assert swag.count("w30 w32") == 2
    none = load("winogrande", nine, num_fewshot=0)["tasks"]["winogrande"]
    assert none.get_config("num_fewshot") == 0


def test_a_group_is_evaluated_over_its_subjects(tmp_path: Path) -> None:
    manager = local_tasks(["mmlu"], write_all_subjects(tmp_path), num_fewshot=0)
    loaded = manager.load(["mmlu"])
    assert len(loaded["tasks"]) == 57
    done = run("small", small_lm(batch_size=64), loaded, ["mmlu"], limit=1)
    assert [(f.task, f.metric, f.samples) for f in done.figures] == [("mmlu", "acc", 57)]
    (plan,) = plan_tasks(small_lm(), loaded, ["mmlu"], 1)
    assert (plan.requests, plan.work.rows) == (57 * 4, 57 * 4)


def write_all_subjects(folder: Path) -> Path:
    stock = STOCK / "mmlu/default"
    subjects = [load_yaml(path)["dataset_name"] for path in stock.glob("mmlu_*.yaml")]
    rows = [
        {"question": "w3", "subject": name, "choices": list("abcd"), "answer": 1}
        for name in subjects
    ]
    write_jsonl(folder / "mmlu/test.jsonl", rows)
    return folder


def test_two_runs_see_the_same_examples(nine: Path) -> None:
    loaded = load("winogrande", nine)
    first = run("a", small_lm(), loaded, ["winogrande"])
    prompts = [instance.args for instance in loaded["tasks"]["winogrande"].instances]
    second = run("b", small_lm(), loaded, ["winogrande"])
    assert prompts == [i.args for i in loaded["tasks"]["winogrande"].instances]
    assert first.figures == second.figures


def test_programs_are_run_by_the_limited_subprocess(
    nine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = ProgramTests(Limits(cpu_seconds=1))
    monkeypatch.setattr(f"{local_tasks.__module__}.ProgramTests", lambda: strict)
    loaded = load("humaneval", nine)
    lm = small_lm()
    texts = iter(["    return True", "    while True: pass"])
    lm.generate_until = lambda requests, **_: [next(texts) for _ in requests]  # type: ignore[method-assign]
    (figure,) = run("fixed answers", lm, loaded, ["humaneval"]).figures
    assert figure.value == 0.5


def test_results_as_a_table_and_as_json(nine: Path) -> None:
    names = ["gsm8k", "piqa"]
    loaded = load(names, nine)
    runs = [run(name, small_lm(seed=i), loaded, names) for i, name in enumerate(("one", "two"))]
    content = json.loads(results_json(runs, {"seed": 0}, "0", complete=False))
    assert content["complete"] is False
    assert [r["name"] for r in content["runs"]] == ["one", "two"]
    assert content["runs"][0]["figures"][0]["task"] == "gsm8k"
    table = results_table(runs)
    assert [column.header for column in table.columns] == [
        "task",
        "metric",
        "rows",
        "shots",
        "one",
        "two",
    ]
    assert table.row_count == len(runs[0].figures) == 4
    plans = plan_tasks(small_lm(), loaded, names)
    assert [(p.task, p.requests) for p in plans] == [("gsm8k", 2), ("piqa", 4)]
    table = plan_table(small_lm(), plans, models=3)
    assert table.row_count == 3
    assert list(table.columns[1].cells) == ["2", "4", "18"]
