"""Packed checkpoints on the command line: ``compile --save`` and ``generate DIR``."""

from __future__ import annotations

import copy
import fnmatch
import json
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

import starquant_fx
from starquant_fx import runtime
from starquant_fx.cli import main, subject
from starquant_fx.errors import CheckpointError
from starquant_fx.sizes import shown_size
from tests import small_models
from tests.cli.test_export import letters
from tests.compile_cases import SMALL, compiled, small
from tests.small_models import masked_ids

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
    one, tokenizer = compiled("odd", "rtn-w8a8"), letters()
    place = one.save(tmp_path / "a", tokenizer=tokenizer)
    options = ("-p", "Once", "-n", "8", "-s", "4")
    code, out, err = command(monkeypatch, capsys, "generate", place, *options)
    assert (code, err) == (0, "")
    assert out.startswith("O n c e ")
    ids = tokenizer("Once", add_special_tokens=False, return_tensors="pt")["input_ids"]
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
    size = sum(file.stat().st_size for file in (tmp_path / "b").iterdir())
    assert out == f"wrote {tmp_path / 'b'} ({shown_size(size)})\n"
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


def fake_download(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[dict[str, Any]]:
    """Has the hub give a folder; returns what it is asked for."""
    asked: list[dict[str, Any]] = []

    def download(name: str, **options: Any) -> str:
        asked.append({"name": name, **options})
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def test_a_hub_id_is_downloaded_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = compiled("odd", "rtn-w4a4")
    asked = fake_download(monkeypatch, one.save(tmp_path / "a"))
    loaded = starquant_fx.load("someone/odd-w4a4", revision="v1")
    ids = masked_ids("odd", (1, 6), 0.5)
    assert torch.equal(loaded(ids).logits, one(ids).logits)
    (request,) = asked
    assert (request["name"], request["revision"]) == ("someone/odd-w4a4", "v1")
    patterns = request["allow_patterns"]
    for file in (tmp_path / "a").iterdir():
        assert any(fnmatch.fnmatch(file.name, one) for one in patterns), file.name
    for name in ("model.py", "model.bin", "model.pickle"):
        assert not any(fnmatch.fnmatch(name, one) for one in patterns)


def test_what_is_no_hub_id_is_not_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", pytest.fail)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    compiled("odd", "rtn-w4a4").save(tmp_path / "x" / "odd")
    starquant_fx.load("x/odd")
    with pytest.raises(CheckpointError, match="a revision can only be chosen on the hub"):
        starquant_fx.load("x/odd", revision="v1")
    for name in ("nowhere", "./a/b", "../a/b", "a/b/c", Path("a/b")):
        with pytest.raises(CheckpointError, match="there is no checkpoint here"):
            starquant_fx.load(name)


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, **options: Any) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match="could not be downloaded") as caught:
        starquant_fx.load("someone/odd-w4a4")
    assert "no network" in str(caught.value)


def test_generate_takes_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = compiled("odd", "rtn-w4a4").save(tmp_path / "a", tokenizer=letters())
    asked = fake_download(monkeypatch, place)
    options = ("-p", "abc", "-n", "4", "-s", "2")
    code, out, err = command(monkeypatch, capsys, "generate", "someone/odd", *options)
    assert (code, err) == (0, "")
    assert out.startswith("a b c")
    assert asked[0]["allow_patterns"] == ["config.json"]


def test_export_takes_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = compiled("odd", "rtn-w8a8")
    place = one.save(tmp_path / "a", tokenizer=letters())
    code, out, err = command(monkeypatch, capsys, "export", place, tmp_path / "b")
    assert (code, err) == (0, ""), out
    loaded = runtime.load(tmp_path / "b")
    assert loaded.encode("bcd").tolist() == [[1, 2, 3]]
    code, _, err = command(monkeypatch, capsys, "export", place, tmp_path / "c", "-r", "rtn-w8a8")
    assert code == 2
    assert "--recipe does not go with a packed checkpoint" in err
    assert not (tmp_path / "c").exists()


def test_evaluate_compares_the_folder_with_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        subject, "load", lambda name, device: (small_models.model("odd"), letters())
    )
    one = compiled("odd", "rtn-w8a8")
    place = one.save(tmp_path / "a", tokenizer=letters())
    text = tmp_path / "text.txt"
    text.write_text("abcdefghijklmnopqrstuvwxyz" * 10)
    values = tmp_path / "a.json"
    options = ("--text", text, "--length", "16", "--segments", "4", "--draws", "1")
    code, _, err = command(monkeypatch, capsys, "evaluate", place, *options)
    assert code == 2
    assert "compared with the model that it was compiled from" in err
    given = ("--reference", "odd", *options, "--json", values)
    code, out, err = command(monkeypatch, capsys, "evaluate", place, *given)
    assert (code, err) == (0, "")
    (seed,) = json.loads(values.read_text())["seeds"]
    assert set(seed["models"]) == {"full precision", "packed rtn-w8a8"}
    both = ("-r", "rtn-w4a16", "--quick", "--rank")
    code, out, err = command(
        monkeypatch, capsys, "evaluate", place, "--reference", "odd", *options, *both
    )
    assert (code, err) == (0, "")
    assert "packed rtn-w8a8" in out
    code, _, err = command(monkeypatch, capsys, "evaluate", "odd", "--reference", "odd", *options)
    assert code == 2
    assert "--reference is for packed checkpoints" in err
    other = small_models.randomize(copy.deepcopy(small_models.model("odd")), seed=9)
    monkeypatch.setattr(subject, "load", lambda name, device: (other, letters()))
    code, _, err = command(monkeypatch, capsys, "evaluate", place, "--reference", "odd", *options)
    assert code == 2
    assert "the checkpoint was compiled from another model" in err
