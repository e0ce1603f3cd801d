"""The GPU benchmark from end to end on a CPU, at tiny size and with operators in plain PyTorch."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gpu
import pytest
import torch
from torch import Tensor, nn

from cpu_suite.specs import Shape
from gpu_suite import options, peers, products, runs, sites, tile, variants
from gpu_suite.checks import checks
from gpu_suite.clock import Clock
from gpu_suite.forwards import SPENT, Forwards
from gpu_suite.runs import jobs
from gpu_suite.specs import TINY
from gpu_suite.tables import checks_text
from tests.benchmarks import gpu_operators

TRIED = ["--device", "cpu", "--tiny", "--repeats", "1"]
ONE = dataclasses.replace(TINY, tokens=(24,), compared=((), Shape(1, 16)))
"""Single kernels at one number of tokens."""


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, and no C++ compiler for blocks."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: None)
    yield
    torch.set_num_threads(threads)


def tried(path: Path, *more: str) -> tuple[int, dict[str, Any]]:
    code = gpu.main([*TRIED, "--json", str(path / "found.json"), *more])
    return code, json.loads((path / "found.json").read_text())


def test_a_machine_without_a_gpu_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert gpu.main([]) == 2
    assert gpu.main(["--device", "cpu"]) == 2
    text = capsys.readouterr().err
    assert text.count("needs a GPU") == 2
    assert "NVIDIA GPU" in text


@pytest.mark.parametrize(
    "wrong",
    [
        ["--models", "llada-9b"],
        ["--variants", "star-w3"],
        ["--shapes", "1x1"],
        ["--shapes", "many"],
        ["--parts", "models,more"],
        ["--repeats", "0"],
        ["--budget", "0"],
        ["--json", "found.txt"],
        ["--device", "tpu"],
    ],
)
def test_options_that_make_no_sense_are_refused(wrong: list[str]) -> None:
    assert gpu.main([*TRIED, *wrong]) == 2


def test_a_whole_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu_operators.install(monkeypatch)
    asked = ["--models", "llada-tiny", "--shapes", "1x24", "--variants", "star-w4a4,humming W4A4"]
    code, found = tried(tmp_path, *asked)
    assert code == 0
    assert (found["correct"], found["complete"], found["stopped"]) == (True, True, "")
    assert {check["passed"] for check in found["checks"]} == {True}
    assert found["ceiling"] > 0
    assert all(row["seconds"] > 0 for row in found["kernels"])
    assert {"tile_linear w4a4", "tile_linear w4a8", "tile_linear w8a8", "tile_prepare"} <= {
        row["kernel"] for row in found["kernels"]
    }
    rows = {(r["variant"], r["task"], r["masked"]): r for r in found["rows"]}
    assert len(rows) == len(found["rows"]) == 3 * 4 + 2
    measured = [row for row in found["rows"] if row["kind"] != "peer"]
    assert all(row["ratio"] > 0 and row["weight_bytes"] > 0 for row in measured)
    missing = rows["humming W4A4", "forward", True]
    assert missing["reason"] == "not installed: humming"
    assert found["environment"]["versions"]["torch"]
    assert [goal["measured"] for goal in found["goals"]] == [None] * len(found["goals"])
    text = capsys.readouterr().out
    assert "### llada-tiny, 1x24 (forward of a short block): forward" in text
    assert "a step of a generation of 2 steps, logits of all tokens" in text
    assert "| humming W4A4 | not measured: not installed: humming |" in text


def test_a_wrong_kernel_is_found_told_and_ends_the_run_with_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(*arguments: Any) -> Tensor:
        found = gpu_operators.tile_linear(*arguments)
        found[-1, -1] += 1  # one integer
        return found

    gpu_operators.install(monkeypatch, tile_linear=wrong)
    code, found = tried(tmp_path, "--models", "llada-tiny", "--parts", "checks")
    assert code == 1
    assert found["correct"] is False
    bad = [check for check in found["checks"] if check["passed"] is False]
    assert bad
    assert all("tile_linear" in check["name"] for check in bad)
    assert "1 of" in bad[0]["detail"]
    assert "FAILED: tile_linear" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["tile_prepare", "tile_site", "tile_greedy", "tile_greedy_int8"])
def test_every_kernel_can_fail_its_check(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    right = getattr(gpu_operators, name)

    def wrong(*arguments: Any) -> list[Tensor]:
        return [(1.5 * one).to(one.dtype) + 1 for one in right(*arguments)]

    gpu_operators.install(monkeypatch, **{name: wrong})
    model = [next(iter(TINY.models.values()))]
    bad = {
        c.name.partition(" ")[0] for c in checks(model, ONE, torch.device("cpu")) if not c.passed
    }
    assert bad == {name}


def test_every_fused_form_is_checked_and_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forms by what a wrong kernel leaves out: 9 bias, 14 residual, 15 SwiGLU."""
    model = [TINY.models["dream-tiny"]]
    for place, form in ((3, "q+k+v"), (8, "o"), (8, "down"), (9, "gate+up")):

        def wrong(*arguments: Any, place: int = place, form: str = form) -> Tensor:
            codes, scale, zero, packed, *rest = arguments
            if place == 9:
                found = gpu_operators.tile_linear(*arguments)
                return found * (1.1 if rest[9] else 1.0)
            rest[place] = None
            return gpu_operators.tile_linear(codes, scale, zero, packed, *rest)

        gpu_operators.install(monkeypatch, tile_linear=wrong)
        bad = [c.name for c in checks(model, ONE, torch.device("cpu")) if not c.passed]
        assert any(f" {form} " in name for name in bad), (form, bad)
        assert all(name.endswith("epilogue") for name in bad)


def test_results_in_bf16_pass_all_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are on a GPU: no limit is so narrow that rounding alone reaches it."""
    gpu_operators.install(monkeypatch)
    for module in (products, sites, sys.modules["gpu_suite.head"]):
        monkeypatch.setattr(module, "floats", lambda device: torch.bfloat16)
    large = dataclasses.replace(
        TINY.models["llada-tiny"], width=1024, heads=8, ffn=1024, vocab=2048
    )
    work = dataclasses.replace(ONE, tokens=(128,))
    found = list(checks([large], work, torch.device("cpu")))
    assert [check for check in found if not check.passed] == []
    assert any("tile_greedy_int8" in check.name for check in found)


def test_checks_stop_when_their_time_is_over_and_say_what_was_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu_operators.install(monkeypatch)
    model = [TINY.models["llada-tiny"]]
    asked: list[int] = []

    def enough() -> bool:
        asked.append(0)
        return len(asked) > 3

    found = list(checks(model, TINY, torch.device("cpu"), enough))
    assert found[0].name.startswith("tile_linear w4a4 q+k+v")
    assert {check.passed for check in found[:6]} == {True}  # three comparisons of two parts
    assert {check.passed for check in found[6:]} == {None}
    late = "- not run: {} checks: the time for checks was spent before"
    assert late.format(len(found) - 6) in checks_text(found)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("the device fell off")])
def test_a_run_that_ends_early_keeps_what_it_found(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
) -> None:
    gpu_operators.install(monkeypatch)
    monkeypatch.setattr(gpu, "EVERY", 0.0)
    file, seen = tmp_path / "found.json", []

    def models(*arguments: Any) -> Iterator[Any]:
        seen.append(json.loads(file.read_text()))
        raise error
        yield

    monkeypatch.setattr(runs, "models", models)
    monkeypatch.setattr(runs, "checks", lambda *arguments: iter(()))
    code, found = tried(tmp_path, "--models", "llada-tiny")
    assert code == 3
    assert (seen[0]["complete"], found["complete"]) == (False, False)
    assert found["kernels"] == seen[0]["kernels"] != []
    why = "interrupted" if isinstance(error, KeyboardInterrupt) else "the device fell off"
    assert why in found["stopped"]
    text = capsys.readouterr().out
    assert "### This run ended early" in text
    assert "### Kernels" in text


def test_a_kernel_that_raises_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: Any) -> Tensor:
        raise RuntimeError("an illegal memory access")

    gpu_operators.install(monkeypatch, tile_site=wrong)
    model = [next(iter(TINY.models.values()))]
    bad = [c for c in checks(model, ONE, torch.device("cpu")) if not c.passed]
    assert bad
    assert all(c.passed is False and "illegal memory access" in c.detail for c in bad)


def test_a_variant_that_fails_and_one_without_time_are_rows_that_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = options.planned(
        options.parser("").parse_args([*TRIED, "--shapes", "1x24", "--variants", "fp8 scaled_mm"])
    )
    subject = variants.Subject(plan.specs[0], plan.device)

    def wrong(self: nn.Module, x: Tensor) -> Tensor:
        raise RuntimeError("no fp8 here")

    monkeypatch.setattr(peers.Fp8Linear, "forward", wrong)
    say: list[str] = []
    clock = Clock(plan.device)
    with torch.no_grad():
        for left, reasons in ((60.0, {"", "RuntimeError: no fp8 here"}), (0.0, None)):
            work = Forwards(subject, clock, 1, 2, lambda left=left: left, say.append)  # type: ignore[misc]
            rows = list(work.rows(plan.variants, plan.sizes))
            found = {row.reason for row in rows}
            assert found == (reasons or {SPENT})
            assert all((row.median is None) == bool(row.reason) for row in rows)


def test_what_matters_most_is_measured_first_and_the_usual_variants_are_all_installed_or_not() -> (
    None
):
    plan = options.planned(options.parser("").parse_args(TRIED))
    order = [(spec.name, own[-1].kind, share) for spec, own, share in jobs(plan)]
    assert order[0][:2] == ("llada-tiny", "ours")
    assert order[1][:2] == ("dream-tiny", "ours")
    assert order[0][2] == max(share for _, _, share in order)
    names = [one.name for one in plan.variants]
    assert "bf16 whole" not in names
    assert {"star-w4a4", "star-w4a8", "star-w8a8", variants.HEAD8} <= set(names)
    assert {"torchao int8", "fp8 scaled_mm", "gemlite W8A8", "humming W4A4"} <= set(names)


@pytest.mark.slow
def test_small_models_are_the_same_on_the_real_kernels_in_every_state() -> None:
    if reason := tile.missing(torch.device("cpu")):
        pytest.skip(reason)
    found = list(checks([], dataclasses.replace(TINY, tokens=(24,)), torch.device("cpu")))
    names = [check.name for check in found]
    assert len(names) == 2 * 2 * 3
    assert all(check.passed for check in found)
    for state in ("half masked", "all masked", "none masked"):
        assert sum(name.endswith(state) for name in names) == 4
    assert all("relative error" in check.detail for check in found)


@pytest.mark.parametrize("budget", ["4", pytest.param("10", marks=pytest.mark.slow)])
def test_the_real_kernels_pass_where_they_are(budget: str, tmp_path: Path) -> None:
    """Four seconds are enough for all single kernels, ten for those of a model as well."""
    root = Path(__file__).parents[2]
    file = tmp_path / "found.json"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    asked = ["--models", "llada-tiny", "--parts", "checks", "--budget", budget, "--json", str(file)]
    done = subprocess.run(
        [sys.executable, str(root / "benchmarks" / "gpu.py"), *TRIED, *asked],
        env={**environment, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = {check["passed"] for check in json.loads(file.read_text())["checks"]}
    assert found <= {True, None}
    assert (True in found) == (not tile._loaded())
