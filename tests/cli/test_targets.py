"""Targets and devices on the command line: chosen by option, refused before anything is loaded, named as options."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from starquant_fx import cli
from starquant_fx.cli import options, subject
from starquant_fx.cli.wording import as_options
from starquant_fx.errors import ConfigError, LoweringError


@pytest.fixture(autouse=True)
def _no_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> str:
    """The refusal of a command that may load nothing."""

    def load(*arguments: Any) -> Any:
        raise AssertionError("something was loaded")

    for module in ("compile", "generate", "subject"):
        monkeypatch.setattr(f"starquant_fx.cli.{module}.load", load)
    monkeypatch.setattr("starquant_fx.integrations.harness.loading.from_pretrained", load)
    monkeypatch.setattr(sys, "argv", ["starquant-fx", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ("compile", "llada-tiny"),
        ("generate", "llada-tiny", "-p", "Once", "--recipe", "rtn-w4a4"),
        ("generate", "llada-tiny", "-p", "Once", "--artifact", "none.safetensors"),
        ("evaluate", "llada-tiny"),
        ("harness", "llada-tiny", "--tasks", "piqa"),
    ],
)
def test_a_target_that_does_not_run_here_is_refused_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    text = refused(monkeypatch, capsys, *command, "--target", "triton")
    assert "the target triton does not run here" in text
    assert "where: --target" in text
    assert "--device cuda moves" in text
    assert "='" not in text
    text = refused(monkeypatch, capsys, *command, "--target", "tritn")
    assert "did you mean 'triton'?" in text
    text = refused(monkeypatch, capsys, *command, "--device", "tpu9")
    assert "where: --device" in text
    assert "leave the option out" in text


def test_the_cpu_target_is_refused_on_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    place = torch.device("meta")
    monkeypatch.setattr("starquant_fx.devices.usable_device", lambda device: place)
    with pytest.raises(LoweringError, match="does not run on this device"):
        options.check_place("cpu", "cuda")


def test_words_of_the_library_become_those_of_the_command_line() -> None:
    error = LoweringError(
        "no",
        where="target",
        expected="a model on the CPU, or target='reference'",
        hint="compile(..., device='cpu') copies the model",
    )
    assert str(as_options(error)).splitlines()[1:] == [
        "  where: --target",
        "  expected: a model on the CPU, or --target reference",
        "  do: --device cpu copies the model",
    ]
    assert as_options(ConfigError("no", where="graph")).where == "graph"
    assert as_options(ConfigError("no", where="gen_length")).where == "--length"


def test_evaluate_compiles_for_the_target_that_it_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("starquant_fx.cli.evaluate.run", seen.append)
    arguments = ["evaluate", "llada-tiny", "--target", "reference"]
    monkeypatch.setattr(sys, "argv", ["starquant-fx", *arguments])
    with pytest.raises(SystemExit):
        cli.main()
    (settings,) = seen
    assert isinstance(settings, subject.Settings)
    assert settings.target == "reference"


def test_measure_hands_the_target_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from starquant_fx.cli import measure

    class CompiledError(Exception):
        pass

    def compile_model(*arguments: Any, **named: Any) -> Any:
        raise CompiledError(named["target"])

    monkeypatch.setattr("starquant_fx.api.compile", compile_model)
    monkeypatch.setattr("starquant_fx.evaluation.checks.require_segments", lambda *a, **b: None)
    monkeypatch.setattr("starquant_fx.evaluation.checks.require_fit", lambda *a, **b: None)
    with pytest.raises(CompiledError, match="reference"):
        measure.compiled_models(None, None, {"a": None}, None, None, None, target="reference")


def test_a_file_in_no_folder_is_refused_by_the_folder_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "none"
    command = ("cost", "llada-tiny", "--layers", "1", "--json", str(folder / "a.json"))
    text = refused(monkeypatch, capsys, *command)
    assert f"FileNotFoundError: No such file or directory: {str(folder)!r}" in text
    assert "/.a.json" not in text
