"""Links in an exported folder that lead out of it are not followed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from starquant_fx import runtime
from starquant_fx.errors import CheckpointError
from starquant_fx.runtime import loading
from tests.runtime.exports import write_export
from tests.runtime.fakes import ArrayDenoiser

FILES = ["model.onnx", "model.onnx.data", "tokenizer.json", "starquant.json"]


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return write_export(tmp_path / "export", ArrayDenoiser(), external=True)


def never(*arguments: Any, **options: Any) -> Any:
    raise AssertionError("onnxruntime saw it")


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_a_link_that_leads_outside_is_refused_before_onnxruntime_sees_it(
    export: Path, name: str, check: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "open_session", never)
    secret = export.parent / "secret"
    (export / name).rename(secret)
    (export / name).symlink_to("../secret")
    with pytest.raises(CheckpointError, match="lies somewhere else") as caught:
        runtime.load(export, check=check)
    assert caught.value.where == str(export / name)
    assert caught.value.got == f"a link to {secret}"
    assert "somebody changed it" in str(caught.value)


def test_a_tokenizer_that_the_metadata_does_not_name_is_not_followed_either(export: Path) -> None:
    content = (export / "starquant.json").read_text()
    (export / "starquant.json").write_text(content.replace("tokenizer.json", "other.json"))
    (export / "tokenizer.json").rename(export.parent / "secret")
    (export / "tokenizer.json").symlink_to("../secret")
    loaded = runtime.load(export, check=False)
    with pytest.raises(CheckpointError, match="lies somewhere else"):
        loaded.encode("one")


def test_a_loop_of_links_is_refused(export: Path) -> None:
    (export / "model.onnx").unlink()
    (export / "model.onnx").symlink_to("model.onnx")
    with pytest.raises(CheckpointError):
        runtime.load(export, check=False)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_within_the_folder_and_to_it_are_followed(export: Path, tmp_path: Path) -> None:
    (export / "tokenizer.json").rename(export / "words.json")
    (export / "tokenizer.json").symlink_to("words.json")
    (tmp_path / "link").symlink_to("export")
    assert runtime.load(tmp_path / "link").encode("one").tolist() == [[1]]
