"""``starquant-fx export``, in this process."""

from __future__ import annotations

import json
import re
import string
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

from starquant_fx import runtime
from starquant_fx.artifact import save_artifact
from starquant_fx.cli import export, main
from tests.export.small import compiled
from tests.small_models import MASK, model

LETTERS = {letter: i for i, letter in enumerate(string.ascii_letters)}


def letters() -> PreTrainedTokenizerFast:
    """A tokenizer with a token for every letter."""
    own = Tokenizer(WordLevel({**LETTERS, "[MASK]": MASK["odd"]}, unk_token="a"))
    own.pre_tokenizer = Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=own, mask_token="[MASK]")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command for a small model; returns the exit code, standard output and standard error."""
    monkeypatch.setattr(export, "load", lambda name: (model("odd"), letters()))
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["starquant-fx", "export", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog. " * 40)
    return path


def test_a_model_is_compiled_written_and_verified(command: Any, tmp_path: Path, text: Path) -> None:
    folder, values = tmp_path / "a", tmp_path / "a.json"
    code, out, err = command(
        "odd", folder, "-r", "rtn-w8a8", "--calibration", text, "--json", values
    )
    assert code == 0, err
    assert err == ""
    assert max(map(len, out.splitlines())) <= 80
    assert re.search(r"wrote\s+\S*/a", out)
    assert "integer, head row-logits, opset 21" in out
    assert "text, mixed, 1 x 48" in out, "verified on the text as well"
    assert "7 quantized linears as MatMulIntegerToFloat (7)" in out
    loaded = runtime.load(folder)
    assert (loaded.metadata.flavour, loaded.metadata.head) == ("integer", "row-logits")
    assert loaded.encode("bcd").tolist() == [[1, 2, 3]]
    report = json.loads(values.read_text())
    assert report["folder"] == str(folder)
    assert report["verification"]["float_fallbacks"] == []
    assert report["verification"]["error_default"] < 0.1


def test_options_reach_the_export(command: Any, tmp_path: Path, text: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    options = ("--flavor", "qdq", "--head", "tokens", "--opset", "22", "--attention-mask")
    code, out, err = command("odd", folder, "-r", "rtn-w8a8", "-c", text, "--no-verify", *options)
    assert code == 0, err
    assert "not verified: verification was turned off" in out
    found = runtime.load(folder).metadata
    assert (found.flavour, found.head, found.opset) == ("qdq", "tokens", 22)
    assert found.inputs == ("input_ids", "attention_mask", "rows")


def test_an_artifact_is_exported_and_a_warning_is_no_failure(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = save_artifact(compiled("odd", "rtn-w4a4"), tmp_path / "a.safetensors")
    folder = tmp_path / "a"

    def compile_model(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("it was compiled")

    monkeypatch.setattr("starquant_fx.api.compile", compile_model)
    code, out, err = command("odd", folder, "--artifact", artifact, "-f", "qdq", "--head", "logits")
    assert code == 0, err
    assert "warning: all 7 run in floating point" in out
    loaded = runtime.load(folder, strict=True)
    assert loaded.metadata.recipe == "rtn-w4a4"
    ids = torch.tensor([[3, MASK["odd"], 7]])
    wanted = compiled("odd", "rtn-w4a4")(ids).logits
    got = torch.from_numpy(loaded(ids.numpy()))
    assert float((got - wanted).abs().max() / wanted.abs().max()) < 1e-4
    code, _, err = command("odd", folder, "--artifact", artifact)
    assert code == 2
    assert "do: --force replaces it" in err


REFUSED: list[tuple[tuple[str, ...], str]] = [
    (("--flavour", "integr"), "did you mean 'integer'"),
    (("--flavour", "x"), "where: --flavour"),
    (("--head", "token"), "did you mean 'tokens'"),
    (("--opset", "20"), "expected: 21, 22, 23"),
    (("--recipe", "strar-w8a8"), "did you mean 'star-w"),
    (("--recipe", "rtn-w8a8", "--artifact", "x"), "--recipe and --artifact exclude each other"),
    (("--artifact", "nowhere.safetensors"), "there is no such artifact"),
    (("--calibration", "nowhere.txt"), "nowhere.txt"),
    (("--json", "report.txt"), "end the name in .json"),
    (("--json", "nowhere/report.json"), "nowhere"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_refusals_come_before_the_model_is_loaded(
    command: Any,
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(name: str) -> Any:
        raise AssertionError("it was loaded")

    monkeypatch.setattr(export, "load", load)
    monkeypatch.chdir(tmp_path)
    code, out, err = command("odd", tmp_path / "a", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_places_are_refused_before_the_model_is_loaded(
    command: Any, force: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "load", None)
    (tmp_path / "file").write_text("mine")
    for name, message in (
        ("file", "got: a file"),
        ("file/a", "Not a directory"),
        ("none/a", "make the folder above it first"),
        ("model.onnx", "an export is a folder, not a file"),
        (".", "a folder with file"),
    ):
        code, _, err = command("odd", tmp_path / name, *force)
        assert code == 2
        assert message in err
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_without_onnxruntime_the_way_out_is_an_option(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "load", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, _, err = command("odd", tmp_path / "a")
    assert code == 2
    assert "verification needs onnxruntime, which is not installed" in err
    assert "where: --verify" in err
    assert "--no-verify writes without looking" in err


@pytest.mark.slow
def test_a_shipped_model_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "llada"
    for arguments in (
        ("export", "llada-tiny", folder, "-r", "rtn-w8a8"),
        ("generate", "--onnx", folder, "-p", "Once upon a time", "-n", "16", "-s", "8"),
    ):
        monkeypatch.setattr(sys, "argv", ["starquant-fx", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
        out = capsys.readouterr().out
        if arguments[0] == "export":
            assert re.search(r"text, mixed, 1 x 48 .* 100\.0%|text, mixed, 1 x 48 .* 9\d\.\d%", out)
            assert "model.onnx, starquant.json, tokenizer.json" in out
            assert "run in floating point" not in out
    assert len(out.split()) > 3
