"""``starquant-fx generate --onnx``, in this process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from starquant_fx import runtime
from starquant_fx.cli import main
from tests.runtime.exports import write_export
from tests.runtime.fakes import ArrayDenoiser

PROMPT = ("-p", "one two three", "-n", "8", "-s", "4")


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command; returns the exit code, standard output and standard error."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["starquant-fx", "generate", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return run


def test_the_text_is_the_runtimes(generate: Any, tmp_path: Path) -> None:
    folder = write_export(tmp_path, ArrayDenoiser())
    options = (
        "--option",
        "temperature=0.9",
        "--option",
        "block_length=4",
        "--seed",
        "3",
        "--strict",
    )
    code, out, _ = generate("--onnx", folder, *PROMPT, *options, "--provider", "cpu")
    model = runtime.load(folder)
    ids = model.generate(
        "one two three", seed=3, steps=4, gen_length=8, block_length=4, temperature=0.9
    )
    assert (code, out) == (0, model.decode(ids) + "\n")


def test_defaults_of_the_export_are_kept(generate: Any, tmp_path: Path) -> None:
    defaults = {"alg": "maskgit_plus", "steps": 99, "max_new_tokens": 30}
    folder = write_export(tmp_path, ArrayDenoiser("Dream"), sampler_defaults=defaults)
    _, out, _ = generate("--onnx", folder, *PROMPT)
    model = runtime.load(folder)
    ids = model.generate("one two three", steps=4, max_new_tokens=8)
    assert out == model.decode(ids) + "\n"


def test_the_tokens_are_shown_as_they_are_unmasked(
    generate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_export(tmp_path, ArrayDenoiser())
    monkeypatch.setattr(Console, "is_terminal", True)
    _, out, _ = generate("--onnx", folder, *PROMPT)
    assert "step 4 of 4" in out
    _, out, _ = generate("--onnx", folder, *PROMPT, "--no-live")
    assert "step" not in out


REFUSED: list[tuple[tuple[str, ...], str]] = [
    (("llada-tiny",), "MODEL and --onnx exclude each other"),
    (("--recipe", "star-w4a4"), "--recipe and --onnx"),
    (("--artifact", "x"), "--artifact and --onnx"),
    (("--target", "auto"), "--target and --onnx"),
    (("--device", "cpu"), "--device and --onnx"),
    (("--timing",), "--timing and --onnx"),
    (("--calibration", "x.txt"), "--calibration and --onnx"),
    (("--provider", "cudda"), "did you mean 'cuda'"),
    (("--option", "top_p=0.5"), "unknown generation argument 'top_p'"),
    (("--option", "generator=1"), "unknown generation argument 'generator'"),
    (("--option", "temperature"), "malformed option"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_does_not_fit_is_refused(
    generate: Any, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    folder = write_export(tmp_path, ArrayDenoiser())
    code, out, err = generate("--onnx", folder, *PROMPT, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_one_of_model_and_onnx_is_needed(generate: Any) -> None:
    code, _, err = generate("-p", "x")
    assert code == 2
    assert "or --onnx DIR" in err
    for option in (("--provider", "cpu"), ("--strict",)):
        code, _, err = generate("llada-tiny", "-p", "x", *option)
        assert code == 2
        assert f"{option[0]} is for exported models" in err
