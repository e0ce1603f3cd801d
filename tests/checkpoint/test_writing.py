"""A checkpoint is written whole or not at all."""

from __future__ import annotations

import dataclasses
import errno
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from starquant_fx.checkpoint.reading import is_checkpoint, load
from starquant_fx.checkpoint.writing import save
from starquant_fx.errors import CheckpointError, InputError
from starquant_fx.folders.exchange import exchange
from starquant_fx.folders.workplace import CONTENT, MARKER, MOVING, NEW, OLD, locked
from starquant_fx.models.locate import locate
from starquant_fx.models.named import named_model
from tests import small_models
from tests.compile_cases import compiled, fresh
from tests.failing import Failing

OLD_RECIPE, NEW_RECIPE = "rtn-w4a4", "rtn-w8a8"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no space"), KeyboardInterrupt()])
@pytest.mark.parametrize("place", ["old", "old without exchange", "new", "empty"])
def test_interrupted_anywhere(
    place: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failure of any write, the old folder is there or the new one, and nothing beside it."""
    place, _, way = place.partition(" ")
    if way:
        monkeypatch.setattr("starquant_fx.folders.writing.exchange", lambda one, other: False)
    path = tmp_path / "a"
    old, new = compiled("odd", OLD_RECIPE), compiled("odd", NEW_RECIPE)
    options: dict[str, Any] = {"shard_bytes": 20_000, "force": True}
    wanted = contents(new.save(tmp_path / "wanted", **options))
    before = contents(old.save(tmp_path / "before", **options))
    shutil.rmtree(tmp_path / "wanted")
    failures = 0
    for at in range(10_000):
        shutil.rmtree(path, ignore_errors=True)
        if place == "old":
            shutil.copytree(tmp_path / "before", path)
        elif place == "empty":
            path.mkdir()
        with monkeypatch.context() as patch:
            failing = Failing(at, error, patch)
            try:
                new.save(path, **options)
            except (CheckpointError, KeyboardInterrupt):
                failures += 1
        assert {p.name for p in tmp_path.iterdir()} <= {"a", "before"}
        if failing.left >= 0:
            break
        held = contents(path) if path.exists() else None
        assert held == {"old": before, "new": None, "empty": {}}[place] or held == wanted
    assert contents(path) == wanted
    assert failures > 30


@pytest.mark.skipif(sys.platform != "linux", reason="folders cannot be exchanged")
def test_there_is_a_checkpoint_at_any_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What replaces another one takes its place at once, so that a process that is killed leaves one of both."""
    path = compiled("odd", OLD_RECIPE).save(tmp_path / "a")
    monkeypatch.setattr(Path, "rename", pytest.fail)
    compiled("odd", NEW_RECIPE).save(path, force=True)
    assert load(path).recipe == compiled("odd", NEW_RECIPE).recipe
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_cannot_be_exchanged(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="No such file"):
        exchange(tmp_path / "a", tmp_path / "b")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_one_that_a_killed_process_was_just_replacing_is_loaded(
    sound: Path, tmp_path: Path
) -> None:
    place = tmp_path / ".a.0123abcd"
    place.mkdir()
    (place / MARKER).write_text(CONTENT)
    shutil.copytree(sound, place / OLD)
    shutil.copytree(sound, place / NEW)
    load(tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.skipif(sys.platform == "win32", reason="nobody knows who is alive")
@pytest.mark.parametrize("read", [load, is_checkpoint, locate, named_model])
def test_one_whose_files_were_moving_up_is_completed_by_what_reads_it(
    read: Callable[[str], object], sound: Path, tmp_path: Path
) -> None:
    """Its process was killed in between."""
    place = tmp_path / "a" / ".a.0123abcd"
    shutil.copytree(sound, place / MOVING)
    (place / MARKER).write_text(CONTENT + "config.json")
    (place / MOVING / "README.md").rename(tmp_path / "a" / "README.md")
    assert read(str(tmp_path / "a"))
    assert contents(tmp_path / "a") == contents(sound)


@pytest.mark.skipif(sys.platform == "win32", reason="nobody knows who is alive")
def test_one_whose_files_move_just_now_is_waited_for(sound: Path, tmp_path: Path) -> None:
    place = tmp_path / "a" / ".a.0123abcd"
    shutil.copytree(sound, place / MOVING)
    (place / MARKER).write_text(CONTENT)
    with (place / MARKER).open() as other, ThreadPoolExecutor() as pool:
        assert locked(other)
        loading = pool.submit(load, tmp_path / "a")
        time.sleep(0.3)
        assert not loading.done()
        other.close()
        assert loading.result().recipe == load(sound).recipe


def test_force_replaces_a_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    place, one = tmp_path / "a", compiled("odd", OLD_RECIPE)
    one.save(place, shard_bytes=10_000)
    with pytest.raises(CheckpointError, match=r"got: a checkpoint\n.*force=True"):
        one.save(place)
    one.save(place, force=True)
    assert len(list(place.glob("*.safetensors"))) == 1
    (place / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"a folder with notes\.txt"):
        one.save(place, force=True)
    assert (place / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("force", [False, True])
def test_a_foreign_folder_stays(force: bool, tmp_path: Path) -> None:
    golden = Path(__file__).parents[1] / "goldens" / "llada"
    place = Path(shutil.copytree(golden, tmp_path / "model"))
    before = contents(place)
    with pytest.raises(CheckpointError, match="a folder with"):
        compiled("odd", OLD_RECIPE).save(place, force=force)
    assert contents(place) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard_bytes": 0}, "the size of a shard is not usable"),
        ({"shard_bytes": 1.5}, "the size of a shard is not usable"),
        ({"shard_bytes": "5 bananas"}, "the size of a shard is not usable"),
        ({"shard_bytes": True}, "the size of a shard is not usable"),
        ({"tokenizer": "llada-tiny"}, "the tokenizer cannot be written"),
        ({"force": 1}, "force"),
    ],
)
def test_bad_arguments_write_nothing(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        compiled("odd", OLD_RECIPE).save(tmp_path / "a", **options)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_models_of_transformers_are_refused(kind: str, tmp_path: Path) -> None:
    one = compiled(kind, "rtn-w8a8")
    with pytest.raises(InputError, match="cannot be built again from its configuration") as caught:
        one.save(tmp_path / "a")
    assert "save_artifact" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_only_what_was_compiled_is_saved(tmp_path: Path) -> None:
    for thing in (small_models.model("odd"), None):
        with pytest.raises(InputError, match="no compiled model"):
            save(thing, tmp_path / "a")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a checkpoint is a folder, not a file"):
        compiled("odd", OLD_RECIPE).save(tmp_path / "a.safetensors")


def test_a_model_that_its_configuration_does_not_describe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = compiled("odd", OLD_RECIPE)
    monkeypatch.setattr(one, "config", dataclasses.replace(one.config, mlp_hidden_size=80))
    with pytest.raises(InputError, match="does not describe the model"):
        one.save(tmp_path / "a")
    monkeypatch.setattr(one.config, "extra", {"x": object()})
    with pytest.raises(InputError, match="does not describe the model"):
        one.save(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_parameters_of_several_types(tmp_path: Path) -> None:
    mixed = fresh("odd", OLD_RECIPE)
    frame = mixed.frame
    for name, parameter in frame.named_parameters():
        if name.endswith("ln_f.weight"):
            frame.get_submodule(name.rpartition(".")[0])._parameters["weight"] = nn.Parameter(
                parameter.double(), requires_grad=False
            )
    with pytest.raises(InputError, match="of several types"):
        mixed.save(tmp_path / "a")
