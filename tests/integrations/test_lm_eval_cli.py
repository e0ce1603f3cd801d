"""``starquant-fx harness`` and the harness's own command line, run as a user runs them."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from starquant_fx.cli.app import app
from starquant_fx.errors import InputError
from starquant_fx.integrations.harness import loading
from starquant_fx.recipe import Recipe
from starquant_fx.recipes import get_recipe
from tests.commands import Here
from tests.compile_cases import compiled
from tests.integrations.harness_cases import tokenizer, words, write_nine

ROOT = Path(__file__).parents[2]
needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None,
    reason="the lm-evaluation-harness is not installed (extra 'eval')",
)


def python(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env={**os.environ, "COLUMNS": "120", "HF_HUB_OFFLINE": "1", **environment},
    )


def harness(
    *arguments: str | Path, model: str | Path = "llada-tiny"
) -> subprocess.CompletedProcess[str]:
    return python("-m", "starquant_fx", "harness", model, *arguments)


@pytest.fixture
def small_model(tmp_path: Path) -> Path:
    """A folder with a tiny denoiser and a tokenizer."""
    folder = tmp_path / "model"
    tokenizer().save_pretrained(folder)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(ROOT / "tests/goldens/llada" / name, folder)
    return folder


@needs_harness
def test_recipes_are_compared_task_by_task(tmp_path: Path, small_model: Path) -> None:
    write_nine(tmp_path)
    output, texts = tmp_path / "results.json", tmp_path / "texts.txt"
    texts.write_text(words(range(3, 140)))
    done = harness(
        *("--tasks", "arc_challenge,piqa", "--recipe", "rtn-w8a8", "--data", tmp_path),
        *("--limit", "1", "--mc-num", "2", "--output", output, "--calibration", texts),
        model=small_model,
    )
    assert done.returncode == 0, done.stderr
    values = json.loads(output.read_text())
    assert [run["name"] for run in values["runs"]] == ["full precision", "rtn-w8a8"]
    assert {figure["task"] for figure in values["runs"][1]["figures"]} == {"arc_challenge", "piqa"}
    assert values["settings"]["mc_num"] == 2
    assert values["complete"] is True
    for text in ("rtn-w8a8", "acc_norm", "±"):
        assert text in done.stdout


@needs_harness
def test_a_packed_checkpoint_is_evaluated_as_it_is(tmp_path: Path, small_model: Path) -> None:
    write_nine(tmp_path)
    output, place = tmp_path / "results.json", tmp_path / "packed"
    compiled("llada", "rtn-w8a8").save(place, tokenizer=tokenizer())
    options = ("--tasks", "piqa", "--data", tmp_path, "--limit", "1", "--mc-num", "2")
    done = harness(*options, "--output", output, model=place)
    assert done.returncode == 0, done.stderr
    values = json.loads(output.read_text())
    assert [run["name"] for run in values["runs"]] == ["rtn-w8a8"]
    done = harness(*options, "--recipe", "rtn-w4a4", model=place)
    assert done.returncode == 2
    assert "--recipe does not go with a packed checkpoint" in done.stderr


@needs_harness
def test_the_seed_reaches_the_compilation(
    tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_nine(tmp_path)
    seen: list[Recipe] = []

    def stop(model: Any, recipe: Recipe, **options: Any) -> Any:
        seen.append(recipe)
        raise InputError("far enough")

    monkeypatch.setattr(loading, "compile_model", stop)
    options = ("--tasks", "piqa", "--data", tmp_path, "--recipe", "star-w4a4", "--no-full")
    CliRunner().invoke(app, ["harness", str(small_model), *map(str, options), "--seed", "7"])
    assert seen == [get_recipe("star-w4a4").seeded(7)]


@needs_harness
def test_the_plan_says_how_much_there_is_to_do(tmp_path: Path, small_model: Path) -> None:
    write_nine(tmp_path)
    recipes = ("--recipe", "rtn-w4a4,rtn-w8a8")
    done = harness("--tasks", "piqa", "--data", tmp_path, "--plan", *recipes, model=small_model)
    assert done.returncode == 0, done.stderr
    assert "forward passes" in done.stdout
    assert "all, 3 models" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tasks", "arc_chalenge"), "did you mean 'arc_challenge'?"),
        (("--tasks", ","), "no task is named"),
        (("--tasks", "humaneval"), "--allow-code-execution"),
        (("--tasks", "piqa", "--recipe", "strar-w4a4"), "did you mean 'star-w4a4'?"),
        (("--tasks", "piqa", "--limit", "0"), "--limit"),
        (("--tasks", "piqa", "--output", "nowhere/a.json"), "cannot be written here"),
    ],
)
def test_refusals_exit_with_2_and_no_traceback(
    arguments: tuple[str, ...], message: str, here: Here
) -> None:
    status, _, refusal = here("harness", "llada-tiny", *arguments)
    assert status == 2
    assert message in refusal


@needs_harness
def test_a_refusal_leaves_no_results(tmp_path: Path) -> None:
    write_nine(tmp_path)
    output = tmp_path / "results.json"
    lengths = ("--gen-length", "600", "--limit", "1")
    done = harness("--tasks", "gsm8k", "--data", tmp_path, "--output", output, *lengths)
    assert done.returncode == 2
    assert "does not fit the model" in done.stderr
    missing = harness("--tasks", "ceval-valid", "--data", tmp_path / "none", "--output", output)
    assert missing.returncode == 2
    assert "ceval-exam.zip" in missing.stderr
    assert "none/ceval" in missing.stderr
    assert not output.exists()


def test_without_the_harness_it_says_what_to_install(tmp_path: Path) -> None:
    # A module of this name that cannot be imported stands before an installed one.
    (tmp_path / "lm_eval.py").write_text("raise ImportError('no lm_eval here')")
    done = python(
        *("-m", "starquant_fx", "harness", "llada-tiny", "--tasks", "piqa"),
        PYTHONPATH=str(tmp_path),
    )
    assert done.returncode == 2
    assert "pip install 'starquant-fx[eval]'" in done.stderr


@needs_harness
def test_the_harnesss_own_command_line_knows_the_model_type(tmp_path: Path) -> None:
    task = tmp_path / "words.yaml"
    (tmp_path / "rows.jsonl").write_text('{"q": "Once upon", "a": ["a time", "the"]}\n')
    task.write_text(
        "task: words\ndataset_path: json\noutput_type: multiple_choice\ntest_split: test\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'rows.jsonl'}}}}}\n"
        'doc_to_text: "{{q}}"\ndoc_to_target: 0\ndoc_to_choice: "{{a}}"\n'
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    done = python(
        *("-m", "starquant_fx.integrations.lm_eval", "--model", "starquant"),
        *("--model_args", "pretrained=llada-tiny,mc_num=2", "--tasks", task),
        HF_DATASETS_CACHE=str(tmp_path / "cache"),
    )
    assert done.returncode == 0, done.stderr
    assert "|acc" in done.stdout


@needs_harness
def test_its_refusals_are_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from starquant_fx.integrations import lm_eval as integration

    def refuse() -> None:
        raise InputError("no such thing", hint="look elsewhere")

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", refuse)
    with pytest.raises(SystemExit) as ended:
        integration.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: no such thing\n  do: look elsewhere\n"
