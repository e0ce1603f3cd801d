"""The folder of an unfinished run: damage, locks, what killed runs left, and what is refused before any work."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import starquant_fx
from starquant_fx.checkpoint.format import RUN_FILE
from starquant_fx.errors import CheckpointError, ConfigError, InputError, PassError, StarQuantError
from starquant_fx.models.folder import LOCK, PLAN
from starquant_fx.models.weightless import fake_model
from starquant_fx.streaming import place
from starquant_fx.streaming.place import MARK, discard, reserved
from starquant_fx.streaming.work import Work
from tests.streaming.cases import recipe, stream

RECIPE = "gptq+tac-w4a4"


@pytest.fixture(scope="module")
def begun(llada: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was stopped after its first part; not to be changed."""
    target = tmp_path_factory.mktemp("begun") / "a"

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream(llada, target, RECIPE, progress=stop)
    return place.unfinished(target)


@pytest.fixture
def copied(begun: Path, tmp_path: Path) -> Path:
    """A copy of it, which belongs to ``tmp_path / "a"``."""
    return Path(shutil.copytree(begun, tmp_path / begun.name))


def refused(
    kind: type[StarQuantError], source: Path, target: Path, chosen: str = RECIPE, **options: object
) -> str:
    with pytest.raises(kind) as caught:
        stream(source, target, chosen, progress=lambda *a: pytest.fail("went on"), **options)
    assert caught.value.hint
    assert not target.exists()
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "model-00001-of-00003.safetensors",
        "entering-00001/full-000000.safetensors",
        "entering-00001/sha256.json",
        "calibration/states.safetensors",
    ],
)
@pytest.mark.parametrize("damage", ["flipped", "truncated", "removed"])
def test_damage_is_found_before_any_work(
    name: str, damage: str, llada: Path, copied: Path, tmp_path: Path
) -> None:
    file = copied / name
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[-9] ^= 1
        file.write_bytes(content)
    elif damage == "truncated":
        file.write_bytes(content[:-20])
    else:
        file.unlink()
    with pytest.raises(CheckpointError) as caught:
        stream(llada, tmp_path / "a", RECIPE)
    text = str(caught.value)
    assert "what an unfinished run left is damaged" in text
    assert str(file.parent) in text.replace(f"remove {str(copied)!r}", "")
    assert f"remove {str(copied)!r} to begin anew" in text
    assert not list(copied.glob("part-00001.json"))


def test_what_was_half_written_is_removed_and_nothing_else(copied: Path) -> None:
    ours = [
        copied / ".model-00002-of-00003.safetensors.0123abcd",
        copied / "entering-00001.new" / "x",
        copied / "entering-00000" / "x",
        copied / "sites" / "site-0001.safetensors",
    ]
    for file in ours:
        file.parent.mkdir(exist_ok=True)
        file.write_text("x")
    (copied / "notes.txt").write_text("mine")
    held = {file.name for file in copied.iterdir()}
    plan = json.loads((copied / "plan.json").read_text())
    Work(copied, 3, plan)
    left = {file.name for file in copied.iterdir()}
    assert held - left == {
        ".model-00002-of-00003.safetensors.0123abcd",
        "entering-00001.new",
        "entering-00000",
        "sites",
    }


def test_a_file_system_without_locks(
    llada: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    text = refused(CheckpointError, llada, tmp_path / "a")
    assert "the file system has no locks" in text
    assert "No locks available" in text
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_ends_while_another_one_opens_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = place.locked

    def late(stream: object) -> bool:
        monkeypatch.setattr(place, "locked", real)
        discard(tmp_path / "a.unfinished")
        return True

    monkeypatch.setattr(place, "locked", late)
    with (
        pytest.raises(CheckpointError, match="another run is at work"),
        reserved(tmp_path / "a"),
    ):
        pytest.fail("two runs")
    with reserved(tmp_path / "a") as folder:
        assert folder.is_dir()


def test_what_was_being_discarded_is_removed_by_the_next_run(tmp_path: Path) -> None:
    gone, used, foreign = (tmp_path / f".a.unfinished.0000000{i}" for i in range(3))
    for folder in (gone, used, foreign):
        (folder / "entering-00001").mkdir(parents=True)
    for folder in (gone, used):
        (folder / LOCK).touch()
    with (used / LOCK).open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with reserved(tmp_path / "a"):
            assert [one.exists() for one in (gone, used, foreign)] == [False, True, True]


def test_no_place_for_what_is_done(
    llada: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.unfinished").write_text("mine")
    monkeypatch.setattr("starquant_fx.streaming.api.Source", lambda *a: pytest.fail("read"))
    text = refused(CheckpointError, llada, tmp_path / "a")
    assert "the run has no place for what it has done" in text
    assert (tmp_path / "a.unfinished").read_text() == "mine"


def test_a_folder_of_somebody_elses(llada: Path, tmp_path: Path) -> None:
    """A file that is called as ours proves nothing, and links are neither followed nor written through."""
    (tmp_path / "a.unfinished").mkdir()
    (tmp_path / "a.unfinished" / LOCK).write_text("")
    (tmp_path / "a.unfinished" / "letters.txt").write_text("mine")
    assert "a folder with letters.txt, lock" in refused(CheckpointError, llada, tmp_path / "a")
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "b.unfinished").mkdir()
    (tmp_path / "b.unfinished" / LOCK).symlink_to(tmp_path / "victim")
    assert "something else" in refused(CheckpointError, llada, tmp_path / "b")
    (tmp_path / "c.unfinished").symlink_to(tmp_path / "b.unfinished")
    assert "a link or a mount point" in refused(CheckpointError, llada, tmp_path / "c")
    assert (tmp_path / "victim").read_text() == "mine"
    assert (tmp_path / "a.unfinished" / "letters.txt").read_text() == "mine"


def test_a_lock_that_was_removed_by_hand(llada: Path, copied: Path, tmp_path: Path) -> None:
    (copied / LOCK).unlink()
    with reserved(tmp_path / "a") as folder:
        assert folder == copied
    assert (copied / "part-00000.json").is_file()


def test_a_record_that_says_something_else(llada: Path, copied: Path, tmp_path: Path) -> None:
    record = copied / "part-00000.json"
    for text in (
        record.read_text().replace('"stored_bytes": ', '"stored_bytes": 1'),
        "[]",
        "null",
        "[" * 100_000,
    ):
        record.write_text(text)
        with pytest.raises(CheckpointError, match="an unfinished run left is damaged"):
            stream(llada, tmp_path / "a", RECIPE)


def test_a_run_that_ends_leaves_the_folder_of_the_next_one(tmp_path: Path) -> None:
    with reserved(tmp_path / "a") as folder:
        discard(folder)
        folder.mkdir()
        (folder / LOCK).write_text(f"{MARK}1\n")
    assert (folder / LOCK).is_file()


def test_stopped_while_the_remains_are_removed(
    llada: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command says that all is done; another one is refused."""

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(place, "hidden", stop)
        with pytest.raises(KeyboardInterrupt):
            stream(llada, tmp_path / "a", "rtn-w4a4")
    assert {one.name for one in (tmp_path / "a.unfinished").iterdir()} == {
        LOCK,
        PLAN,
        place.FINISHED,
    }
    with pytest.raises(CheckpointError, match="what was begun here is another run"):
        stream(llada, tmp_path / "a", "rtn-w8a8")
    stream(llada, tmp_path / "a", "rtn-w4a4", progress=lambda *a: pytest.fail("compiled"))
    assert not (tmp_path / "a.unfinished").exists()


@pytest.mark.parametrize(
    "read",
    [
        starquant_fx.load,
        starquant_fx.from_pretrained,
        lambda at: fake_model(str(at)),
        lambda at: stream(at, at.with_name("b")),
    ],
)
def test_what_a_run_keeps_is_no_model(read: Callable[[Path], object], copied: Path) -> None:
    """Whoever reads it as one is told which command goes on."""
    with pytest.raises(StarQuantError, match="this is what an unfinished run keeps") as caught:
        read(copied)
    assert f"`starquant-fx compile MODEL {copied.with_name('a')}`" in str(caught.value.hint)


def test_another_folder_without_a_configuration(tmp_path: Path) -> None:
    for name in ("a.unfinished", "b"):
        (tmp_path / name).mkdir()
        with pytest.raises(ConfigError, match=r"config\.json is missing"):
            starquant_fx.from_pretrained(tmp_path / name)


def test_what_differs_is_said(llada: Path, copied: Path, tmp_path: Path) -> None:
    chosen = recipe(RECIPE)
    options = dataclasses.replace(chosen.calibration, samples=3)
    with pytest.raises(CheckpointError) as caught:
        stream(llada, tmp_path / "a", dataclasses.replace(chosen, calibration=options))
    assert "recipe.calibration.samples 20, now 3" in str(caught.value)


def test_two_runs_are_told_apart_before_the_model_is_read(
    llada: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("starquant_fx.streaming.api.Source", lambda *a: pytest.fail("read"))
    with reserved(tmp_path / "a"):
        assert "another run is at work" in refused(CheckpointError, llada, tmp_path / "a")


def test_a_recipe_that_does_not_apply(llada: Path, tmp_path: Path) -> None:
    chosen = recipe(RECIPE, ("role:head", "role:o"))
    with pytest.raises(PassError, match="no quantized output projection"):
        stream(llada, tmp_path / "a", chosen)
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_that_cannot_be_written(llada: Path, tmp_path: Path) -> None:
    text = refused(InputError, llada, tmp_path / "a", tokenizer=object())
    assert "the tokenizer cannot be written" in text
    assert list(tmp_path.iterdir()) == []


def test_memory_that_the_process_takes_already(llada: Path, tmp_path: Path) -> None:
    text = refused(ConfigError, llada, tmp_path / "a", memory_limit="1MiB")
    assert "after starting" in text
    assert list(tmp_path.iterdir()) == []


def test_memory_that_calibration_takes(
    llada: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("starquant_fx.streaming.api.check_memory", lambda *a: None)
    text = refused(ConfigError, llada, tmp_path / "a", calibration=None, memory_limit="1MiB")
    assert "took more memory than it may" in text
    assert "after a run of the model" in text


def test_memory_that_the_end_takes(
    llada: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(
        "starquant_fx.streaming.finishing.check_memory", lambda limit, after: seen.append(after)
    )
    stream(llada, tmp_path / "a")
    assert seen == ["loading the checkpoint"]


def test_the_time_that_is_reported(llada: Path, tmp_path: Path) -> None:
    run = json.loads((stream(llada, tmp_path / "a") / RUN_FILE).read_text())
    parts = run["seconds_of_starting"] + run["seconds_of_loading_it_again"]
    parts += sum(run["seconds_by_part"].values())
    assert run["seconds_of_starting"] > 0
    assert run["seconds"] == pytest.approx(parts, abs=0.01)
