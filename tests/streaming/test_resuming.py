"""A run that is stopped anywhere goes on from there, and its checkpoint is that of a run that was not."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import starquant_fx
from starquant_fx.errors import CheckpointError, StarQuantError
from starquant_fx.streaming import work
from starquant_fx.streaming.place import reserved, unfinished
from tests.failing import Failing
from tests.streaming.cases import contents, recipe, stream

RECIPE = "gptq+tac-w4a4"


@pytest.fixture(scope="module")
def right(llada: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an uninterrupted run writes."""
    return contents(stream(llada, tmp_path_factory.mktemp("right") / "a", RECIPE))


@pytest.mark.slow
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no space"), KeyboardInterrupt()])
def test_stopped_at_any_write(
    error: BaseException,
    llada: Path,
    right: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        counting = Failing(10**6, error, patch)
        stream(llada, tmp_path / "counted", RECIPE)
    steps = 10**6 - counting.left
    stopped = 0
    for at in sorted({*range(0, steps, steps // 15), *range(steps - 10, steps)}):
        target = tmp_path / f"a{at}"
        with monkeypatch.context() as patch:
            Failing(at, error, patch)
            raised = outcome(llada, target)
        assert raised is None or raised is error or refusal(raised)
        stopped += raised is not None
        assert not target.exists() or contents(target) == right
        if not target.exists() or unfinished(target).exists():
            stream(llada, target, RECIPE)
        assert contents(target) == right
        assert list(tmp_path.glob(f"a{at}.*")) == []
    assert stopped > 10


def outcome(source: Path, target: Path) -> BaseException | None:
    """What a run raises, if it does."""
    try:
        stream(source, target, RECIPE)
    except BaseException as raised:
        return raised
    return None


def refusal(raised: BaseException) -> bool:
    """Whether this is an error that says what to do."""
    return isinstance(raised, StarQuantError) and bool(raised.hint)


KILLED = """
import os, signal, sys
import starquant_fx
from starquant_fx.folders import workplace
from starquant_fx.streaming import part, work
from pathlib import Path
from tests.failing import Failing
from tests.streaming.cases import stream

where, source, target = sys.argv[1:]
owner, name, calls = {
    "record": (work.Work, "keep", 1),
    "shard": (part, "write_shard", 1),
    "end": (workplace, "sync_folder", 0),
}[where]
real, left = getattr(owner, name), [calls]

def call(*arguments, **options):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    return real(*arguments, **options)

setattr(owner, name, call)
stream(Path(source), Path(target), "gptq+tac-w4a4")
"""


def killed(where: str, source: Path, target: Path) -> None:
    """A run that kills itself there."""
    command = [sys.executable, "-c", KILLED, where, str(source), str(target)]
    root = Path(__file__).parents[2]
    paths = os.pathsep.join(path for path in (str(root), os.environ.get("PYTHONPATH")) if path)
    found = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, check=False)
    assert found.returncode == -9


needs_kill = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")


@needs_kill
@pytest.mark.parametrize("where", ["record", pytest.param("shard", marks=pytest.mark.slow)])
def test_killed_in_the_second_part(
    where: str, llada: Path, right: dict[str, bytes], tmp_path: Path
) -> None:
    target = tmp_path / "a"
    killed(where, llada, target)
    assert not target.exists()
    left = tmp_path / "a.unfinished"
    assert (left / "part-00000.json").is_file()
    assert not (left / "part-00001.json").exists()
    compiled: list[int] = []
    stream(
        llada,
        target,
        RECIPE,
        progress=lambda done, count, record, seconds: compiled.append(done),
    )
    assert compiled == [1, 2, 3]
    assert contents(target) == right
    assert not left.exists()


@needs_kill
@pytest.mark.slow
def test_killed_while_the_files_move_into_an_empty_folder(
    llada: Path, right: dict[str, bytes], tmp_path: Path
) -> None:
    target = tmp_path / "a"
    target.mkdir()
    killed("end", llada, target)
    assert list(target.glob("*.safetensors")) == []
    stream(llada, target, RECIPE, progress=lambda *a: pytest.fail("compiled again"))
    assert contents(target) == right
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_is_done_is_not_done_again(
    llada: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(1, monkeypatch, llada, tmp_path / "a")
    shard = tmp_path / "a.unfinished" / "model-00001-of-00003.safetensors"
    before = shard.stat()
    with monkeypatch.context() as patch:
        patch.setattr("starquant_fx.streaming.states.prepare", lambda *a: pytest.fail("calibrated"))
        stream(llada, tmp_path / "a", RECIPE)
    after = (tmp_path / "a" / shard.name).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def stop_after(parts: int, monkeypatch: pytest.MonkeyPatch, source: Path, target: Path) -> None:
    """Runs until some parts are done."""
    left = [parts]
    real = work.Work.keep

    def keep(self: work.Work, number: int, record: work.PartRecord) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        real(self, number, record)

    with monkeypatch.context() as patch:
        patch.setattr(work.Work, "keep", keep)
        with pytest.raises(KeyboardInterrupt):
            stream(source, target, RECIPE)


def refused(source: Path, target: Path, chosen: str = RECIPE, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        stream(source, target, chosen, **options)
    assert caught.value.hint
    return str(caught.value)


def test_another_run_on_the_same_folder(
    llada: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(1, monkeypatch, llada, tmp_path / "a")
    with reserved(tmp_path / "a"):
        assert f"a run of process {os.getpid()}" in refused(llada, tmp_path / "a")
    stream(llada, tmp_path / "a", RECIPE)


@pytest.mark.parametrize("other", ["recipe", "calibration", "source"])
def test_another_run_than_the_one_begun(
    other: str, llada: Path, dream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for file in llada.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    stop_after(1, monkeypatch, source, tmp_path / "a")
    if other == "recipe":
        text = refused(source, tmp_path / "a", "rtn-w4a4")
    elif other == "calibration":
        text = refused(source, tmp_path / "a", calibration=None)
    else:
        shard = next(source.glob("*.safetensors"))
        content = bytearray(shard.read_bytes())
        content[-3] ^= 1  # times and size may stay what they were: the values are looked at
        shard.write_bytes(content)
        text = refused(source, tmp_path / "a")
    assert "what was begun here is another run" in text
    assert {"recipe": "recipe", "calibration": "calibration", "source": "fingerprint"}[
        other
    ] in text
    assert (tmp_path / "a.unfinished" / "part-00000.json").is_file()


def test_a_source_that_changes_meanwhile(
    llada: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for file in llada.iterdir():
        (source / file.name).write_bytes(file.read_bytes())

    def touch(done: int, *rest: object) -> None:
        os.utime(next(source.glob("*.safetensors")), ns=(done, done))

    assert "files changed while they were read" in refused(source, tmp_path / "a", progress=touch)
    assert (tmp_path / "a.unfinished" / "part-00000.json").is_file()
    assert not (tmp_path / "a.unfinished" / "part-00001.json").exists()


def test_a_truncated_shard_of_the_source(llada: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for file in llada.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    shard = sorted(source.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-100])
    assert "truncated or corrupt" in refused(source, tmp_path / "a")
    assert not (tmp_path / "a.unfinished").exists()


@pytest.mark.parametrize("left", ["part-00000.json", "shard", "entering", "plan.json"])
def test_remains_that_are_damaged(
    left: str, llada: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(1, monkeypatch, llada, tmp_path / "a")
    folder = tmp_path / "a.unfinished"
    if left == "shard":
        (folder / "model-00001-of-00003.safetensors").write_bytes(b"x")
    elif left == "entering":
        next((folder / "entering-00001").iterdir()).write_bytes(b"x")
    else:
        (folder / left).write_text("{")
    text = refused(llada, tmp_path / "a")
    assert str(folder) in text or "not what was saved" in text or "truncated" in text
    assert not (tmp_path / "a").exists()


def test_something_else_where_the_run_would_be(llada: Path, tmp_path: Path) -> None:
    (tmp_path / "a.unfinished").mkdir()
    (tmp_path / "a.unfinished" / "letters.txt").write_text("mine")
    assert "a folder with letters.txt" in refused(llada, tmp_path / "a")
    assert (tmp_path / "a.unfinished" / "letters.txt").read_text() == "mine"


def test_a_checkpoint_that_is_there_stays_until_the_end(
    llada: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = contents(stream(llada, tmp_path / "a", "rtn-w4a4"))
    assert "force=True" in refused(llada, tmp_path / "a")

    def stop(*arguments: object) -> None:
        assert contents(tmp_path / "a") == old
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream(llada, tmp_path / "a", "rtn-w8a8", force=True, progress=stop)
    assert contents(tmp_path / "a") == old
    stream(llada, tmp_path / "a", "rtn-w8a8", force=True)
    assert starquant_fx.load(tmp_path / "a").recipe == recipe("rtn-w8a8")


def test_stopped_before_the_remains_are_gone(
    llada: Path, right: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command then says that all is done; another one begins anew, with nothing of the old run."""

    def stop(folder: Path) -> None:
        raise KeyboardInterrupt

    for other in (RECIPE, "rtn-w8a8"):
        with monkeypatch.context() as patch:
            patch.setattr("starquant_fx.streaming.finishing.discard", stop)
            assert isinstance(outcome(llada, tmp_path / other), KeyboardInterrupt)
        assert contents(tmp_path / other) == right
        assert (tmp_path / f"{other}.unfinished").is_dir()
    stream(llada, tmp_path / RECIPE, RECIPE)
    assert contents(tmp_path / RECIPE) == right
    assert not (tmp_path / f"{RECIPE}.unfinished").exists()
    assert "what was begun here is another run" in refused(llada, tmp_path / "rtn-w8a8", "rtn-w8a8")


@pytest.mark.parametrize("changed", ["config", "tokenizer"])
def test_what_else_the_result_depends_on(
    changed: str, llada: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for file in llada.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    stop_after(1, monkeypatch, source, tmp_path / "a")
    options: dict[str, Any] = {}
    if changed == "config":
        config = json.loads((source / "config.json").read_text())
        (source / "config.json").write_text(json.dumps(config | {"rope_theta": 77.0}))
    else:
        options["tokenizer"] = starquant_fx.from_pretrained("llada-tiny")[1]
    assert changed in refused(source, tmp_path / "a", **options)


def test_a_run_without_a_finished_part_is_begun_anew(
    llada: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("starquant_fx.streaming.states.prepare", stop)
        with pytest.raises(KeyboardInterrupt):
            stream(llada, tmp_path / "a", calibration=torch.ones(2, 12).long())
    assert (tmp_path / "a.unfinished").is_dir()
    stream(llada, tmp_path / "a")


def test_a_checkpoint_that_came_meanwhile_is_not_replaced(llada: Path, tmp_path: Path) -> None:
    def come(done: int, *rest: object) -> None:
        if done == 3:
            stream(llada, tmp_path / "b", "rtn-w8a8")
            (tmp_path / "b").rename(tmp_path / "a")

    assert "force=True" in refused(llada, tmp_path / "a", progress=come)
    assert starquant_fx.load(tmp_path / "a").recipe == recipe("rtn-w8a8")
