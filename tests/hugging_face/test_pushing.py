"""``push_to_hub`` uploads exactly what ``save_pretrained`` writes; no hub is asked here."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from transformers import AutoModelForMaskedLM

import starquant_fx
from starquant_fx.errors import CheckpointError, InputError
from tests.small_models import masked_ids

Folder = Callable[[str], Path]


class Hub:
    """What ``HfApi`` would do: keeps the files of every upload."""

    def __init__(self) -> None:
        self.repositories: list[dict[str, Any]] = []
        self.uploads: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}

    def __call__(self) -> Hub:
        return self

    def create_repo(self, repo_id: str, **options: Any) -> Any:
        self.repositories.append({"repo_id": repo_id, **options})
        full = repo_id if "/" in repo_id else f"me/{repo_id}"
        return types.SimpleNamespace(repo_id=full)

    def upload_folder(self, *, folder_path: Path, **options: Any) -> str:
        self.uploads.append(options)
        self.files = {p.name: p.read_bytes() for p in Path(folder_path).iterdir()}
        return "https://hub/commit/1"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", made)
    return made


@pytest.mark.parametrize("kind", ["packed", "full"])
def test_exactly_the_folders_files(
    kind: str, hub: Hub, packed: Folder, full: Folder, tmp_path: Path
) -> None:
    source = packed("odd") if kind == "packed" else full("odd")
    loaded: Any = AutoModelForMaskedLM.from_pretrained(source)
    address = loaded.push_to_hub("odd-w4a4", private=True, token="x", commit_message="New")
    assert address == "https://hub/commit/1"
    loaded.save_pretrained(tmp_path / "a")
    assert hub.files == {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    assert hub.repositories == [
        {"repo_id": "odd-w4a4", "private": True, "token": "x", "exist_ok": True}
    ]
    (upload,) = hub.uploads
    assert upload.pop("delete_patterns")
    assert upload == {"repo_id": "me/odd-w4a4", "commit_message": "New", "token": "x"}


def test_what_was_uploaded_loads(hub: Hub, packed: Folder, tmp_path: Path) -> None:
    loaded: Any = AutoModelForMaskedLM.from_pretrained(packed("odd"))
    loaded.push_to_hub("me/odd", max_shard_size="4KB", tags=["german"])
    for name, data in hub.files.items():
        (tmp_path / name).write_bytes(data)
    ids = masked_ids("odd", (1, 6), 0.5)
    assert torch.equal(starquant_fx.load(tmp_path)(ids).logits, loaded(ids).logits)
    assert b"german" in hub.files["README.md"]
    assert len([name for name in hub.files if name.endswith(".safetensors")]) > 1


def test_saving_and_uploading_at_once(hub: Hub, packed: Folder, tmp_path: Path) -> None:
    loaded: Any = AutoModelForMaskedLM.from_pretrained(packed("odd"))
    loaded.save_pretrained(tmp_path / "mine", push_to_hub=True)
    assert hub.repositories[0]["repo_id"] == "mine"
    loaded.save_pretrained(tmp_path / "b", push_to_hub=True, repo_id="me/x", create_pr=True)
    assert hub.uploads[1]["repo_id"] == "me/x"
    assert hub.uploads[1]["create_pr"] is True
    assert hub.files == {p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()}


def test_a_failure_says_what_to_do(packed: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, *args: Any, **options: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    loaded: Any = AutoModelForMaskedLM.from_pretrained(packed("odd"))
    with pytest.raises(CheckpointError, match="no network"):
        loaded.push_to_hub("me/odd")


@pytest.mark.parametrize("name", ["", "a/b/c", "../x", 7, "a b"])
def test_names_that_are_none(name: Any, hub: Hub, packed: Folder) -> None:
    loaded: Any = AutoModelForMaskedLM.from_pretrained(packed("odd"))
    with pytest.raises(InputError):
        loaded.push_to_hub(name)
    assert not hub.uploads


def test_options_that_are_unknown(hub: Hub, packed: Folder) -> None:
    loaded: Any = AutoModelForMaskedLM.from_pretrained(packed("odd"))
    with pytest.raises(InputError, match="privat"):
        loaded.push_to_hub("me/odd", privat=True)
    assert not hub.repositories
