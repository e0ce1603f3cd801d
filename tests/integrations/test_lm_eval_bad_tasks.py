"""Tasks and files that are refused, with what is wrong and where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from starquant_fx.errors import InputError
from tests import small_models
from tests.integrations.harness_cases import NINE, tokenizer, write_nine

pytest.importorskip("lm_eval", reason="the lm-evaluation-harness is not installed (extra 'eval')")

from starquant_fx.integrations.harness.run import run
from starquant_fx.integrations.harness.tasks import local_tasks
from starquant_fx.integrations.lm_eval import StarQuantLM


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_nine(folder)
    return folder


def load(name: str, data: Path, **options: Any) -> dict[str, Any]:
    loaded: dict[str, Any] = local_tasks([name], data, **options).load([name])
    return loaded


def test_code_execution_needs_permission(nine: Path) -> None:
    with pytest.raises(InputError, match="runs programs that the model writes"):
        local_tasks(["arc_challenge", "humaneval"], nine)


@pytest.mark.parametrize(
    ("name", "offer"),
    [
        ("arc_chalenge", "arc_challenge"),
        ("mmlu_anatomi", "mmlu_anatomy"),
        ("ceval", "ceval-valid"),
        ("mmlu_stem_tasks_", "mmlu_stem_tasks"),
    ],
)
def test_unknown_tasks_are_refused_with_the_nearest(nine: Path, name: str, offer: str) -> None:
    with pytest.raises(InputError) as caught:
        local_tasks([name], nine)
    assert f"did you mean '{offer}'?" in str(caught.value)


@pytest.mark.parametrize("name", NINE)
def test_a_missing_file_is_named_with_its_place(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"the data of {name} is missing") as caught:
        local_tasks([name], tmp_path, allow_code_execution=True)
    assert str(tmp_path) in str(caught.value)
    if name.startswith("ceval"):
        assert "ceval-exam.zip" in str(caught.value)


def test_missing_examples_are_named_too(nine: Path) -> None:
    with pytest.raises(InputError, match="the data of piqa is missing") as caught:
        load("piqa", nine, num_fewshot=3)
    assert "train" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"goal": "w3", "sol1": "a", "sol2": "b"}\n', "lacks label"),
        ('{"goal": \n', "line 1"),
        ("[1]\n", "does not hold objects"),
        ("", "holds no rows"),
        (
            '{"goal": "w3", "sol1": "a", "sol2": "b", "label": 0}\n'
            '{"goal": "w3", "sol1": "a", "sol2": "b", "label": "x"}\n',
            "do not go together",
        ),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "piqa").mkdir()
    (tmp_path / "piqa/validation.jsonl").write_text(content)
    with pytest.raises(InputError, match=message):
        load("piqa", tmp_path)


def test_a_file_that_is_not_compressed_as_it_says_is_refused(tmp_path: Path) -> None:
    (tmp_path / "piqa").mkdir()
    (tmp_path / "piqa/validation.jsonl.gz").write_text("no gzip")
    with pytest.raises(InputError, match="cannot be read"):
        load("piqa", tmp_path)


def test_a_subject_without_rows_is_named(nine: Path) -> None:
    with pytest.raises(InputError, match="no row of the subject 'virology'"):
        load("mmlu_virology", nine)


def test_a_chat_template_is_asked_for_before_anything_runs(nine: Path) -> None:
    lm = StarQuantLM(small_models.model("llada"), tokenizer())
    with pytest.raises(InputError, match="no chat template"):
        run("x", lm, load("piqa", nine), ["piqa"], chat_template=True)
