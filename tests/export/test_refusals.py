"""What cannot be exported is refused before the work."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from starquant_fx import runtime
from starquant_fx.errors import CheckpointError, InputError, LoweringError, StarQuantError
from starquant_fx.export import api
from starquant_fx.export.api import export_onnx
from starquant_fx.export.folder import check_folder
from tests.export.small import compiled
from tests.small_models import model


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets nothing be built."""

    def build(*arguments: Any) -> Any:
        raise AssertionError("it was built")

    monkeypatch.setattr(api, "build", build)


REFUSED: list[tuple[dict[str, Any], type[StarQuantError], str]] = [
    ({"flavour": "integr"}, InputError, "did you mean 'integer'"),
    ({"flavour": "float"}, InputError, "expected: qdq, integer, nbits"),
    ({"flavour": ["qdq"]}, InputError, "unknown flavour"),
    ({"flavour": None}, InputError, "unknown flavour None"),
    ({"head": "token"}, InputError, "did you mean 'tokens'"),
    ({"head": 3}, InputError, "unknown head 3"),
    ({"opset": 20}, LoweringError, "expected: 21, 22, 23"),
    ({"opset": 24}, LoweringError, "opset 24 cannot be written"),
    ({"opset": True}, LoweringError, "opset True"),
    ({"opset": 21.0}, LoweringError, "opset 21.0"),
    ({"opset": "21"}, LoweringError, "opset '21'"),
    ({"attention_mask": "no"}, InputError, "attention_mask is not usable"),
    ({"verify": None}, InputError, "verify is not usable"),
    ({"force": 1}, InputError, "force is not usable"),
    ({"tokenizer": object()}, InputError, "the tokenizer cannot be written"),
    ({"samples": [[1, 2]]}, InputError, "the samples are not usable"),
    ({"samples": torch.ones(3, dtype=torch.long)}, InputError, "[N, L] of at most 64"),
    ({"samples": torch.ones(1, 65, dtype=torch.long)}, InputError, "the samples are not usable"),
    ({"samples": torch.ones(0, 5, dtype=torch.long)}, InputError, "the samples are not usable"),
    ({"samples": torch.ones(1, 5)}, InputError, "the ids have a wrong dtype"),
    ({"samples": torch.full((1, 5), 61)}, InputError, "token ids are out of range"),
]


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(("options", "error", "message"), REFUSED)
def test_arguments(
    options: dict[str, Any], error: type[StarQuantError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        export_onnx(compiled("odd"), tmp_path / "a", **options)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_work")
def test_what_is_no_compiled_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this is no compiled model"):
        export_onnx(model("odd"), tmp_path / "a")  # type: ignore[arg-type]
    one = compiled("odd")
    config, one.config = one.config, SimpleNamespace(model_type="llada")
    try:
        with pytest.raises(InputError, match="the size of the vocabulary is not known"):
            one.export_onnx(tmp_path / "a")
    finally:
        one.config = config
    assert list(tmp_path.iterdir()) == []


PLACES = (
    *("a file", "below a file", "no parent", "another model", "a loop", "too long", "zero"),
    *("the root", "a number", "nothing", "bytes", "an ONNX file", "another's metadata"),
    *("broken metadata", "a folder of a file's name"),
)


def places(root: Path) -> dict[str, tuple[Any, str]]:
    """Paths that nothing can be written to, and what is said of them."""
    (root / "file").write_text("mine")
    (root / "other").mkdir()
    (root / "other" / "model.onnx").write_text("mine")
    (root / "loop").symlink_to(root / "loop")
    for name, content in (("foreign", '{"a": 1}'), ("broken", "{")):
        (root / name).mkdir()
        (root / name / "starquant.json").write_text(content)
        (root / name / "model.onnx").write_text("mine")
    (root / "nested" / "model.onnx").mkdir(parents=True)
    (root / "nested" / "starquant.json").write_text('{"format": "starquant-onnx"}')
    return {
        "a file": (root / "file", "got: a file"),
        "below a file": (root / "file" / "a", "Not a directory"),
        "no parent": (root / "none" / "a", "No such file or directory"),
        "another model": (root / "other", "got: a folder with model.onnx"),
        "a loop": (root / "loop", "cannot be written here"),
        "too long": (root / ("a" * 300), "File name too long"),
        "zero": (f"{root}/a\0b", "null byte"),
        "the root": ("/", "cannot be written here"),
        "a number": (3, "expected: a str or a pathlib.Path"),
        "nothing": (None, "got: None"),
        "bytes": (b"x", "do: name the folder"),
        "an ONNX file": (root / "llada.onnx", "leave the ending .onnx out"),
        "another's metadata": (root / "foreign", "got: a folder with model.onnx, starquant.json"),
        "broken metadata": (root / "broken", "got: a folder with model.onnx, starquant.json"),
        "a folder of a file's name": (root / "nested", "got: a folder with model.onnx"),
    }


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("force", [False, True])
def test_places(place: str, force: bool, tmp_path: Path) -> None:
    path, message = places(tmp_path)[place]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((CheckpointError, InputError)) as caught:
        export_onnx(compiled("odd"), path, force=force)
    assert message in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no file system without new folders")
def test_a_file_system_that_takes_no_folders_is_named() -> None:
    with pytest.raises(CheckpointError) as caught:
        check_folder("/proc/x", force=False)
    assert str(caught.value.got).startswith("'/proc' takes no new folders (FileNotFoundError")


def test_a_mount_point_with_an_export_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "starquant.json").write_text('{"format": "starquant-onnx"}')
    monkeypatch.setattr(Path, "is_mount", lambda self: self == tmp_path)
    with pytest.raises(CheckpointError, match="a mount point with an export"):
        check_folder(tmp_path, force=True)


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert check_folder("a", force=False) == tmp_path / "a"
    assert check_folder(Path("b/../a"), force=False) == tmp_path / "a"
    assert check_folder(".", force=False) == tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def no_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes onnxruntime one that is not installed."""
    real = importlib.import_module

    def absent(name: str, *arguments: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError(f"No module named {name!r}")
        return real(name, *arguments)

    monkeypatch.setattr(importlib, "import_module", absent)


@pytest.mark.usefixtures("no_onnxruntime", "no_work")
def test_verification_without_onnxruntime_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="verification needs onnxruntime") as caught:
        export_onnx(compiled("odd"), tmp_path / "a")
    assert "verify=False" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("built_once")
def test_without_verification_onnxruntime_is_not_needed(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context():
        request.getfixturevalue("no_onnxruntime")
        report = export_onnx(compiled("odd"), tmp_path / "a", flavour="integer", verify=False)
    assert report.verification is None
    monkeypatch.undo()
    assert runtime.load(tmp_path / "a").metadata.flavour == "integer"
