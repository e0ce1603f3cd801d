from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from typer.testing import CliRunner

from starquant_fx import progress
from starquant_fx.cli.app import app
from starquant_fx.errors import InputError, StarQuantError
from starquant_fx.models import folder
from tests.compile_cases import compiled

TINY = ("llada-tiny", "--layers", "1", "--target", "reference")


def shown(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["cost", *arguments])
    if done.exception is not None:
        raise done.exception
    return done.output


def test_tables_totals_and_json(tmp_path: Path) -> None:
    file = tmp_path / "cost.json"
    text = shown(
        *TINY,
        *("--chip", "H200", "--chip", "cpu", "--tokens", "1x64", "--tokens", "4x256"),
        *("--logits", "masked", "--by", "pass", "--symbolic", "--json", str(file)),
    )
    for part in (
        "Predicted, not measured",
        "4x256",
        "insert-tac",
        "B*L",
        "measured on one H200, without this package",
    ):
        assert part in text
    found = json.loads(file.read_text())
    assert len(found["predictions"]) == 4
    assert found["predictions"][3]["rows"] == 512
    assert found["predictions"][0]["quantized"]["seconds"] > 0
    assert {row["name"] for row in found["predictions"][0]["pass"]} >= {"capture", "fuse"}


def test_a_part_of_a_model_and_a_target_of_another_chip_are_said(tmp_path: Path) -> None:
    file = tmp_path / "cost.json"
    text = shown(
        "llada-tiny", "--layers", "1", *("--target", "triton", "--chip", "cpu"), "--json", str(file)
    )
    assert "llada-tiny with 1 layer only" in text
    remark = "the target triton is for GPUs and does not run on cpu"
    assert remark in " ".join(text.split())
    found = json.loads(file.read_text())
    assert found["layers"] == 1
    assert any(note.startswith(remark) for note in found["notes"])
    assert "does not run on" not in shown(*TINY, "--chip", "H200")


def test_what_takes_long_is_said_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.working("tracing"):
        pass
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with progress.working("tracing"):
        pass
    assert "tracing ..." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("llada-tiny", "--chip", "A4O"), "--rate bf16="),
        (("llada-tiny", "--tokens", "many"), "4x1024"),
        (("llada-tiny", "--by", "rule"), "role"),
        (("llada-tiny", "--logits", "some"), "masked"),
        (("llada-tiny", "--rate", "int8=fast"), "int8=1500"),
        (("llada-tiny", "--target", "triton2"), "reference"),
        (("llada-tny",), "llada-tiny"),
        (("bert", "--layers", "3"), "there is no model"),
    ],
)
def test_refusals_say_what_is_known(arguments: tuple[str, ...], part: str) -> None:
    with pytest.raises(StarQuantError) as refused:
        shown(*arguments)
    assert part in str(refused.value)


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="no rate"):
        shown("llada-tiny", "--rate", "int8=0")


@pytest.mark.parametrize("named", ["folder", "config.json", "hub id"])
def test_a_packed_checkpoint_has_its_own_recipe(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, file = compiled("odd", "rtn-w8a8").save(tmp_path / "packed"), tmp_path / "a.json"
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: str(place))
    names = {"folder": place, "config.json": place / "config.json", "hub id": "someone/packed"}
    model = str(names[named])
    shown(model, "--target", "reference", "--tokens", "1x8", "--json", str(file))
    found = json.loads(file.read_text())
    assert (found["recipe"], found["model"]) == ("rtn-w8a8", model)
    with pytest.raises(InputError, match="--recipe does not go with a packed checkpoint"):
        shown(model, "--recipe", "rtn-w4a4")


def test_a_folder_that_is_called_as_a_size_does_not_give_its_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    compiled("odd", "rtn-w8a8").save(tmp_path / "2x4096")
    options = ("--layers", "1", "--target", "reference", "--tokens", "1x8", "--json", "a.json")
    shown("2x4096", *options, "--recipe", "rtn-w4a4")
    found = json.loads(Path("a.json").read_text())
    assert found["recipe"] == "rtn-w4a4"
    shown("./2x4096", *options)
    there = json.loads(Path("a.json").read_text())
    assert there["recipe"] == "rtn-w8a8"
    sizes = [one["predictions"][0]["bf16"]["peak_bytes"] for one in (found, there)]
    assert sizes[0] > 1000 * sizes[1]


def test_a_configuration_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    real = folder.read_json

    def counted(place: Path, name: str, refusal: type[StarQuantError]) -> dict[str, Any]:
        read.append(place / name)
        return real(place, name, refusal)

    monkeypatch.setattr(folder, "read_json", counted)
    shown(*TINY, "--recipe", "rtn-w8a8")
    assert [path.name for path in read] == ["config.json"]
