"""Packed checkpoints on the command line: ``compile --save`` and ``generate DIR``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import starquant_fx
from starquant_fx.cli import main
from tests.compile_cases import SMALL, compiled, small

GOLDEN = Path(__file__).parents[1] / "goldens" / "llada"


def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str | Path
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["starquant-fx", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err


def test_what_compile_saves_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "small.json"
    recipe.write_text(json.dumps(small("rtn-w4a4").to_dict()))
    place = compiled("odd", "rtn-w4a4").save(tmp_path / "a")
    arguments = ("compile", GOLDEN, "-r", recipe, "--save", place)
    code, _, err = command(monkeypatch, capsys, *arguments)
    assert code == 2
    assert "do: --force replaces it" in err
    code, out, err = command(monkeypatch, capsys, *arguments, "--force")
    assert (code, err) == (0, "")
    assert "was not kept" not in out
    assert starquant_fx.load(place).recipe.calibration == SMALL


def test_generate_takes_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer = starquant_fx.from_pretrained("llada-tiny")
    assert tokenizer is not None
    texts = ["Once upon a time there was a cat. " * 20]
    one = starquant_fx.compile(model, small("rtn-w8a8"), calibration=texts, tokenizer=tokenizer)
    place = one.save(tmp_path / "a", tokenizer=tokenizer)
    options = ("-p", "Once upon", "-n", "8", "-s", "4")
    code, out, err = command(monkeypatch, capsys, "generate", place, *options)
    assert (code, err) == (0, "")
    assert out.startswith("Once upon ")
    ids = tokenizer("Once upon", add_special_tokens=False, return_tensors="pt")["input_ids"]
    again = one.generate(ids, steps=4, gen_length=8, block_length=8)
    assert out == f"{tokenizer.decode(again[0], skip_special_tokens=True)}\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-r", "rtn-w4a4"), "--recipe does not go with a packed checkpoint"),
        (("-a", "a.safetensors"), "--artifact does not go with a packed checkpoint"),
        (("-c", "a.txt"), "--calibration does not go with a packed checkpoint"),
        ((), "this needs a tokenizer"),
    ],
)
def test_what_does_not_go_with_a_checkpoint(
    options: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = compiled("odd", "rtn-w4a4").save(tmp_path / "a")
    code, _, err = command(monkeypatch, capsys, "generate", place, "-p", "Once", *options)
    assert code == 2
    assert message in err


def test_places_are_checked_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("starquant_fx.models.loading.from_pretrained", pytest.fail)
    (tmp_path / "notes.txt").touch()
    arguments = ("compile", GOLDEN, "-r", "rtn-w4a4", "--save", tmp_path)
    code, _, err = command(monkeypatch, capsys, *arguments)
    assert code == 2
    assert "a folder with notes.txt" in err


def test_other_commands_say_what_loads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = compiled("odd", "rtn-w4a4").save(tmp_path / "a")
    code, _, err = command(monkeypatch, capsys, "compile", place, "-r", "rtn-w4a4")
    assert code == 2
    assert "starquant_fx.load(folder) loads it" in err


def test_convert_writes_what_other_programs_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, tokenizer = starquant_fx.from_pretrained("llada-tiny")
    place = compiled("odd", "rtn-w4a16").save(tmp_path / "a", tokenizer=tokenizer)
    arguments = ("convert", place, tmp_path / "b", "--to")
    code, _, err = command(monkeypatch, capsys, *arguments, "compressed-tensor")
    assert code == 2
    assert "did you mean 'compressed-tensors'?" in err
    code, out, err = command(monkeypatch, capsys, *arguments, "compressed-tensors")
    assert (code, err) == (0, "")
    assert str(tmp_path / "b") in out.replace("\n", "")
    written = json.loads((tmp_path / "b" / "config.json").read_text())
    assert written["quantization_config"]["quant_method"] == "compressed-tensors"
    names = {file.name for file in (tmp_path / "b").iterdir()}
    assert {"tokenizer.json", "tokenizer_config.json"} <= names


def test_convert_refuses_what_the_format_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = compiled("odd", "star-w4a4").save(tmp_path / "a")
    code, _, err = command(monkeypatch, capsys, "convert", place, tmp_path / "b")
    assert code == 2
    assert "cannot be written as compressed-tensors" in err
    assert not (tmp_path / "b").exists()
