"""The command line, run as a user runs it."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from starquant_fx.cli import main
from tests.commands import Here

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "goldens" / "llada"
GENERATE = ("generate", "llada-tiny", "-p", "Once")


def run(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "starquant_fx", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env={**os.environ, "COLUMNS": "100", "PYTHONPATH": str(ROOT)},
    )


def test_every_command_explains_itself(here: Here) -> None:
    overview = run("--help").stdout
    for command in ("compile", "generate", "evaluate", "passes", "demo"):
        status, told, _ = here(command, "--help")
        assert status == 0
        assert re.search(rf"^ *Usage: .* {command} ", told, re.MULTILINE)
        assert command in overview


def test_the_help_of_compile_says_where_an_artifact_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["starquant-fx", "compile", "--help"])
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main()
    words = capsys.readouterr().out.replace("│", " ").split()
    assert {"--artifact`,", "load_artifact", "starquant_fx,"} <= set(words)


def test_passes_are_listed_with_order_and_promise(here: Here) -> None:
    status, told, _ = here("passes", "fold-sgat")
    assert status == 0
    assert "runs after   insert-quantizers" in told
    assert "bit by bit" in told
    status, _, refusal = here("passes", "fold-sgta")
    assert status == 2
    assert "did you mean 'fold-sgat'?" in refusal


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compile", GOLDEN, "-r", "strar-w4a4"), "did you mean 'star-w4a4'?"),
        (("compile", GOLDEN, "-r", "star-w9a4"), "2..8, or 16"),
        (("compile", GOLDEN, "-r", "rtn-w4a4", "-t", "referense"), "did you mean 'reference'?"),
        (("generate", GOLDEN, "-p", "x"), "tokenizer"),
        (("evaluate", GOLDEN, "--text", "nowhere.txt"), "nowhere.txt"),
        ((*GENERATE, "--option", "live=1"), "unknown generation argument 'live'"),
        ((*GENERATE, "--option", "prompt_ids=1"), "unknown generation argument 'prompt_ids'"),
        ((*GENERATE, "--option", "return_dict=True"), "unknown generation argument 'return_dict'"),
        ((*GENERATE, "--option", "on_step=1"), "did you mean 'steps'?"),
        ((*GENERATE, "--option", "generator=1"), "unknown generation argument 'generator'"),
        ((*GENERATE, "--option", "cfg_scal=1"), "did you mean 'cfg_scale'?"),
        ((*GENERATE, "--option", "top_p=0.5"), "unknown generation argument 'top_p'"),
        ((*GENERATE, "--option", "remasking"), "malformed option"),
        ((*GENERATE, "--option", "remasking=[]"), "unknown remasking []"),
        ((*GENERATE, "--option", "logits_eos_inf=no"), "expected: True or False"),
        ((*GENERATE, "--option", "temperature=None"), "temperature is not usable"),
        ((*GENERATE, "--seed", "99999999999999999999"), "'--seed'"),
        ((*GENERATE, "--seed", "-1"), "'--seed'"),
        (("compile", GOLDEN, "--seed", "-1"), "'--seed'"),
        (("demo", "--seed", "-1"), "'--seed'"),
        ((*GENERATE, "--length", "0"), "gen_length is not usable"),
        (("generate", "llada-tiny", "-p", ""), "the prompt is empty"),
        (("generate", "llada-tiny", "-p", "\udcff"), "the prompt is no text"),
        ((*GENERATE, "--artifact", "nowhere.safetensors"), "nowhere.safetensors"),
        ((*GENERATE, "-a", "a.safetensors", "-r", "rtn-w4a4"), "exclude each other"),
    ],
)
def test_refusals_exit_with_2_and_no_traceback(
    arguments: tuple[str | Path, ...],
    message: str,
    here: Here,
) -> None:
    status, _, refusal = here(*arguments)
    assert status == 2
    assert message in refusal


def test_a_refusal_of_the_installed_command_has_no_traceback() -> None:
    done = run("compile", "lada-tiny")
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no model 'lada-tiny'")
    assert "did you mean 'llada-tiny'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_compile_writes_artifact_and_report(here: Here, tmp_path: Path) -> None:
    artifact, report = tmp_path / "a.safetensors", tmp_path / "r.json"
    status, told, refusal = here(
        "compile", GOLDEN, "-r", "rtn-w8a8", "-o", artifact, "--report", report
    )
    assert status == 0, refusal
    assert "fold-sgat" in told
    assert artifact.stat().st_size > 0
    values = json.loads(report.read_text())
    assert values["recipe"] == "rtn-w8a8"
    assert {row["bits"] for row in values["sites"]} == {"w8a8"}


def test_compile_into_a_missing_folder_is_refused_before_the_work(
    here: Here, tmp_path: Path
) -> None:
    target = tmp_path / "no" / "a.safetensors"
    status, told, refusal = here("compile", GOLDEN, "-r", "rtn-w8a8", "-o", target)
    assert status == 2
    assert "cannot be written here" in refusal
    assert "fold-sgat" not in told
    assert list(tmp_path.iterdir()) == []


def test_compile_onto_a_folder_is_refused_before_the_work(here: Here, tmp_path: Path) -> None:
    folder = tmp_path / "a.safetensors"
    folder.mkdir()
    status, told, refusal = here("compile", GOLDEN, "-r", "rtn-w8a8", "-o", folder)
    assert status == 2
    assert "got: a folder of this name" in refusal
    assert "fold-sgat" not in told
    assert list(folder.iterdir()) == []


def test_timing_says_where_a_step_goes_and_what_came_before(here: Here) -> None:
    sizes = ("-n", "4", "-s", "2", "--option", "block_length=4")
    status, told, refusal = here(*GENERATE, *sizes, "--timing", "--no-live")
    assert status == 0, refusal
    for part in ("network with head", "sampler", "rest", "step", "it took"):
        assert part in told
    assert "Before the first step: CPU kernels" in told


def test_a_package_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from starquant_fx import cli

    monkeypatch.setattr(
        "starquant_fx.cli.app.app", lambda: importlib.import_module("torch.nowhere")
    )
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert "needs the package torch" in capsys.readouterr().err
    monkeypatch.setattr("starquant_fx.cli.app.app", lambda: importlib.import_module("nowhere"))
    with pytest.raises(ModuleNotFoundError):
        cli.main()
