from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from starquant_fx import progress
from starquant_fx.cli.app import app
from starquant_fx.errors import InputError, StarQuantError
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
    for part in ("Predicted, not measured", "4x256", "insert-tac", "B*L", "measured on one H200"):
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


def test_a_packed_checkpoint_has_its_own_recipe(tmp_path: Path) -> None:
    folder, file = str(compiled("llada", "rtn-w8a8").save(tmp_path / "packed")), tmp_path / "a.json"
    shown(folder, "--target", "reference", "--tokens", "1x8", "--json", str(file))
    found = json.loads(file.read_text())
    assert found["recipe"] == "rtn-w8a8"
    with pytest.raises(InputError, match="--recipe does not go with a packed checkpoint"):
        shown(folder, "--recipe", "rtn-w4a4")
