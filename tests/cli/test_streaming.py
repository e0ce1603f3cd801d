"""``starquant-fx compile MODEL DST``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

import starquant_fx
from starquant_fx.cli.streaming import duration
from starquant_fx.sizes import shown_size
from starquant_fx.streaming.work import parts_done
from tests.cli.test_checkpoints import command
from tests.compile_cases import small
from tests.models import checkpoints


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.json"
    path.write_text(json.dumps(small("rtn-w4a4").to_dict()))
    return path


def test_a_folder_after_the_model(
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, target = checkpoints.write_llada(tmp_path / "source", n_layers=1)[0], tmp_path / "a"
    arguments = ("compile", source, target, "-r", recipe, "--samples", "5", "--length", "12")
    code, out, err = command(monkeypatch, capsys, *arguments, "--memory-limit", "4GiB")
    assert (code, err) == (0, "")
    assert "1/2 model.transformer.blocks.0" in out
    assert "2/2 model.transformer.ff_out" in out
    assert "0.0 s left for the parts, peak" in " ".join(out.split())
    assert "going on" not in out
    assert "5 sequences, 60 tokens" in out
    size = sum(file.stat().st_size for file in target.iterdir())
    assert f"wrote {target} ({shown_size(size)}) in " in out.replace("\n", "")
    assert "iB" not in out
    loaded = starquant_fx.load(target)
    assert loaded.recipe.calibration.samples == 5
    code, out, err = command(monkeypatch, capsys, *arguments)
    assert code == 2
    assert "--force replaces it" in err
    code, _, err = command(monkeypatch, capsys, *arguments, "--force")
    assert (code, err) == (0, "")


def test_going_on_is_announced_and_what_was_done_is_not_told_again(
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, target = checkpoints.write_llada(tmp_path / "source")[0], tmp_path / "a"

    def stop(done: int, *others: object) -> None:
        if done == 2:
            raise KeyboardInterrupt

    options = ("-r", recipe, "--samples", "5", "--length", "12")
    chosen = small("rtn-w4a4")
    calibration = dataclasses.replace(chosen.calibration, samples=5, length=12)
    chosen = dataclasses.replace(chosen, calibration=calibration)
    with pytest.raises(KeyboardInterrupt):
        starquant_fx.compile_folder(source, target, chosen, progress=stop)
    left = tmp_path / "a.unfinished"
    for given in (("generate", left, "-p", "a"), ("cost", left), ("inspect", "--config", left)):
        code, _, err = command(monkeypatch, capsys, *given)
        assert code == 2
        assert f"do: repeat the command that began it, `starquant-fx compile MODEL {target}`" in err
    other = ("compile", source, target, "-r", "rtn-w8a8")
    code, out, _ = command(monkeypatch, capsys, *other)
    assert (code, out) == (2, "")
    assert parts_done(target) == 2
    code, out, err = command(monkeypatch, capsys, "compile", source, target, *options)
    assert (code, err) == (0, "")
    assert out.startswith("going on: 2 of 3 parts are done\n")
    assert "2/3" not in out
    assert "3/3 model.transformer.ff_out" in out
    assert parts_done(target) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("a", "--save", "b"), "--save does not go with a folder to compile to"),
        (("a", "--output", "b.safetensors"), "--output does not go with a folder"),
        (("a", "--report", "b.json"), "--report does not go with a folder"),
        (("a", "--cache", "c"), "--cache does not go with a folder"),
        (("a", "--print-between-passes"), "--print-between-passes does not go"),
        (("--memory-limit", "8GiB"), "--memory-limit needs a folder to compile to"),
        (("a", "--memory-limit", "much"), "this is no size"),
        (("nowhere/a",), "cannot be written here"),
    ],
)
def test_options_that_do_not_go_together(
    options: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = command(monkeypatch, capsys, "compile", "llada-tiny", *options)
    assert (code, out) == (2, "")
    assert said in err
    assert "do:" in err
    assert list(tmp_path.iterdir()) == []


def test_times_to_read() -> None:
    assert [duration(s) for s in (0.04, 59.94, 61, 3723.4)] == [
        "0.0 s",
        "59.9 s",
        "0:01:01",
        "1:02:03",
    ]
