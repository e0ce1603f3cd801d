"""An export is written whole or not at all, weights one by one."""

from __future__ import annotations

import errno
import os
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from starquant_fx import runtime
from starquant_fx.errors import CheckpointError
from starquant_fx.export import folder as writing
from starquant_fx.export.api import export_onnx
from starquant_fx.export.build import Form
from starquant_fx.lowering.onnx import weights
from tests.export.small import Exports, arrays, built, call, compiled

pytestmark = pytest.mark.usefixtures("built_once")
FILES = ["model.onnx", "starquant.json"]


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def exported(folder: Path, **options: Any) -> Any:
    return export_onnx(
        compiled("odd"), folder, **{"flavour": "integer", "verify": False, **options}
    )


def test_only_the_files_of_the_export_are_there(tmp_path: Path) -> None:
    report = exported(tmp_path / "a")
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == FILES
    assert report.bytes == {n: (tmp_path / "a" / n).stat().st_size for n in FILES}


@pytest.mark.parametrize("kind", ["an empty folder", "a link to a folder", "a link to nothing"])
def test_a_place_that_is_free_is_taken(kind: str, tmp_path: Path) -> None:
    place, real = tmp_path / "place", tmp_path / "real"
    if kind == "an empty folder":
        place.mkdir()
    else:
        place.symlink_to(real)
    if kind == "a link to a folder":
        real.mkdir()
    report = exported(place)
    assert names(place) == FILES
    assert report.folder == place.resolve()
    assert names(tmp_path) == (["place"] if kind == "an empty folder" else ["place", "real"])


def test_force_replaces_an_export(tmp_path: Path) -> None:
    place = tmp_path / "a"
    exported(place)
    (place / "model.onnx.data").write_bytes(b"of the old one")
    with pytest.raises(CheckpointError, match=r"got: an export\n.*force=True"):
        exported(place)
    exported(place, flavour="nbits", force=True)
    assert names(place) == FILES
    assert runtime.load(place).metadata.flavour == "nbits"
    (place / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"a folder with notes\.txt"):
        exported(place, force=True)
    assert (place / "notes.txt").read_text() == "mine"


def full_disk(model: Any, path: Path, **options: Any) -> None:
    Path(path).write_bytes(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupted(model: Any, path: Path, **options: Any) -> None:
    Path(path).write_bytes(b"half")
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("save", "error"), [(full_disk, CheckpointError), (interrupted, KeyboardInterrupt)]
)
def test_nothing_half_written_is_left(
    save: Callable[..., None],
    error: type[BaseException],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = tmp_path / "old"
    exported(old)
    before = {n: (old / n).read_bytes() for n in names(old)}
    monkeypatch.setattr(ir, "save", save)
    for place, force in ((tmp_path / "new", False), (old, True)):
        with pytest.raises(error) as caught:
            exported(place, force=force)
        if error is CheckpointError:
            assert "No space left on device" in str(caught.value)
            assert "free some space" in str(caught.value)
    assert names(tmp_path) == ["old"]
    assert {n: (old / n).read_bytes() for n in names(old)} == before


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
def test_the_old_export_comes_back_if_the_new_one_cannot_take_its_place(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "old"
    exported(old)
    monkeypatch.setattr("starquant_fx.folders.writing.exchange", lambda one, other: False)
    rename, calls = Path.rename, []

    def fails_second(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == 2:
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_second)
    with pytest.raises((CheckpointError, KeyboardInterrupt)):
        exported(old, force=True, flavour="nbits")
    assert names(tmp_path) == ["old"]
    assert runtime.load(old).metadata.flavour == "integer"


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets tensors go to a file of their own."""
    monkeypatch.setattr(writing, "INLINE", 1000)


@pytest.mark.usefixtures("small_files")
def test_tensors_in_a_file_of_their_own(tmp_path: Path, exports: Exports) -> None:
    report = exported(tmp_path / "a", verify=True)
    assert names(tmp_path / "a") == ["model.onnx", "model.onnx.data", "starquant.json"]
    assert report.bytes["model.onnx.data"] > 0
    assert set(runtime.load(tmp_path / "a").metadata.files) == {"model.onnx", "model.onnx.data"}
    arguments, _ = call("odd", (2, 7), 0.5, masked=False, seed=0)
    whole = runtime.load(exports("odd", flavour="integer").folder)
    apart = runtime.load(tmp_path / "a")
    assert np.array_equal(apart(**arrays(arguments)), whole(**arrays(arguments)))
    stored = onnx.load(tmp_path / "a" / "model.onnx", load_external_data=False)
    places = {
        e.value for t in stored.graph.initializer for e in t.external_data if e.key == "location"
    }
    assert places == {"model.onnx.data"}
    moved = tmp_path / "elsewhere"
    shutil.move(tmp_path / "a", moved)
    assert np.array_equal(runtime.load(moved)(**arrays(arguments)), whole(**arrays(arguments)))


@pytest.mark.usefixtures("small_files")
def test_tensors_are_made_one_by_one_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built(compiled("odd"), Form("qdq")).model
    made, alive, peak = [0], [0], [0]

    def counted(numbers: Any, **options: Any) -> Any:
        tensor = ir.Tensor(numbers, **options)
        made[0], alive[0] = made[0] + 1, alive[0] + 1
        peak[0] = max(peak[0], alive[0])
        weakref.finalize(tensor, lambda: alive.__setitem__(0, alive[0] - 1))
        return tensor

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return counted if name == "tensor" else getattr(ir, name)

    monkeypatch.setattr(weights, "ir", Counting())
    exported(tmp_path / "a", flavour="qdq")
    lazy = [
        v for v in model.graph.initializers.values() if isinstance(v.const_value, ir.LazyTensor)
    ]
    assert made[0] == len(lazy) > 10, "each is made once"
    assert peak[0] <= 2, "the next one is made before the last one is dropped at most"
    assert alive[0] == 0
