from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors as hub_errors
from safetensors.torch import load_file, save_file

from starquant_fx.errors import CheckpointError, ConfigError, StarQuantError
from starquant_fx.models.loading import from_pretrained
from tests.models.checkpoints import refusal

INDEX = "model.safetensors.index.json"
HEAD = "model.transformer.ff_out.weight"
IDS = torch.tensor([[3, 47, 9, 1]])

Damaged = Callable[[str], Path]


def same_logits(folder: Path, original: torch.Tensor) -> bool:
    return torch.equal(from_pretrained(folder)[0](IDS).logits, original)


def test_file_cut_at_any_length_is_refused(damaged: Damaged) -> None:
    folder = damaged("llada")
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    header = 8 + int.from_bytes(raw[:8], "little")
    for length in (0, 1, 7, 8, 9, header - 1, header, header + 1, len(raw) // 2, len(raw) - 1):
        path.write_bytes(raw[:length])
        text = refusal(CheckpointError, folder)
        assert "model.safetensors is truncated or corrupt" in text
        assert f"{length} bytes" in text
    path.write_bytes(raw + b"\0")
    assert "truncated or corrupt" in refusal(CheckpointError, folder)


def test_changed_header_byte_is_refused_or_changes_nothing(damaged: Damaged) -> None:
    folder = damaged("llada")
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    header = 8 + int.from_bytes(raw[:8], "little")
    with torch.no_grad():
        original = from_pretrained(folder)[0](IDS).logits.clone()
    chance = random.Random(0)
    places = [*range(8), *chance.sample(range(8, header), 150)]
    refused = 0
    for place in places:
        changed = bytearray(raw)
        changed[place] ^= chance.randrange(1, 256)
        path.unlink()
        path.write_bytes(changed)
        try:
            assert same_logits(folder, original), f"byte {place} of the header"
        except StarQuantError:
            refused += 1
    assert refused > len(places) * 0.9


@pytest.mark.parametrize("name", ["llada", "bert"])
def test_file_without_weights_is_refused(damaged: Damaged, name: str) -> None:
    folder = damaged(name)
    path = folder / "model.safetensors"
    path.unlink()
    save_file({"model.rotary_emb.inv_freq": torch.ones(4)}, path)
    assert "the files hold no weights" in refusal(CheckpointError, folder)


def test_git_lfs_pointer_is_recognised(damaged: Damaged) -> None:
    folder = damaged("llada")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    (folder / "model.safetensors").write_text(pointer)
    assert "do: run `git lfs pull`" in refusal(CheckpointError, folder)


def test_header_that_promises_more_than_memory_is_refused(damaged: Damaged) -> None:
    folder = damaged("llada")
    entry = {HEAD: {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    header = json.dumps(entry).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert "truncated or corrupt" in refusal(CheckpointError, folder)


def index_of(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / INDEX).read_text())
    return loaded


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not readable as JSON"),
        ("[]", "not a JSON object"),
        ("{}", "no usable weight_map"),
        ('{"weight_map": {}}', "no usable weight_map"),
        ('{"weight_map": {"a": 1}}', "no usable weight_map"),
        ('{"weight_map": {"a": "model.bin"}}', "no usable weight_map"),
        ('{"weight_map": {"a": "x.safetensors"}}', "the shard x.safetensors is missing"),
        ('{"weight_map": {"a": "\\u0000.safetensors"}}', "cannot be followed"),
    ],
)
def test_bad_index(damaged: Damaged, content: str, message: str) -> None:
    folder = damaged("shards")
    (folder / INDEX).write_text(content)
    assert message in refusal(CheckpointError, folder)


def test_missing_shard_is_named(damaged: Damaged) -> None:
    folder = damaged("shards")
    (folder / "model-00002-of-00003.safetensors").unlink()
    text = refusal(CheckpointError, folder)
    assert "the shard model-00002-of-00003.safetensors is missing" in text
    assert f"where: {folder / INDEX}" in text
    assert "a file with 7 tensors" in text


def test_index_and_shard_that_disagree(damaged: Damaged) -> None:
    folder = damaged("shards")
    index = index_of(folder)
    del index["weight_map"][HEAD]
    index["weight_map"]["model.other"] = "model-00001-of-00003.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    text = refusal(CheckpointError, folder)
    assert "the index and the shard" in text
    assert "listed but absent: ['model.other']" in text or HEAD in text


def test_missing_index_is_asked_for(damaged: Damaged) -> None:
    folder = damaged("shards")
    (folder / INDEX).unlink()
    text = refusal(CheckpointError, folder)
    assert "model-00001-of-00003.safetensors" in text
    assert f"do: add {INDEX}" in text


def test_pickled_weights_are_not_opened(damaged: Damaged, tmp_path: Path) -> None:
    folder = damaged("llada")
    (folder / "model.safetensors").unlink()
    ran = tmp_path / "ran"
    pickle = f"cposix\nsystem\n(S'touch {ran}'\ntR."
    (folder / "pytorch_model.bin").write_text(pickle)
    text = refusal(CheckpointError, folder)
    assert "no safetensors weights" in text
    assert "convert it" in text
    assert not ran.exists()


def test_folder_without_weights(damaged: Damaged) -> None:
    folder = damaged("llada")
    (folder / "model.safetensors").unlink()
    text = refusal(CheckpointError, folder)
    assert "expected: model.safetensors, or shards with" in text
    assert "got: config.json" in text


def outside(tmp_path: Path, folder: Path) -> str:
    """A sound shard outside of the folder, and the path to it from the folder."""
    shard = sorted(folder.glob("*.safetensors"))[0]
    target = tmp_path / "outside.safetensors"
    save_file(load_file(shard), target)
    return os.path.relpath(target, folder)


@pytest.mark.parametrize("absolute", [False, True])
def test_index_that_points_outside_is_refused(
    damaged: Damaged, tmp_path: Path, absolute: bool
) -> None:
    folder = damaged("shards")
    escape = outside(tmp_path, folder)
    if absolute:
        escape = str((folder / escape).resolve())
    index, first = index_of(folder), sorted(p.name for p in folder.glob("*.safetensors"))[0]
    moved = {n: escape if f == first else f for n, f in index["weight_map"].items()}
    (folder / INDEX).write_text(json.dumps({"weight_map": moved}))
    text = refusal(CheckpointError, folder)
    assert f"{escape!r} points outside of the model's folder" in text


@pytest.mark.parametrize("roundabout", ["{folder}/{file}", "../{name}/{file}"])
def test_index_names_its_shards_relative_to_the_folder(damaged: Damaged, roundabout: str) -> None:
    folder = damaged("shards")
    weights = index_of(folder)["weight_map"]
    moved = {
        n: roundabout.format(folder=folder, name=folder.name, file=f) for n, f in weights.items()
    }
    (folder / INDEX).write_text(json.dumps({"weight_map": moved}))
    assert "points outside of the model's folder" in refusal(CheckpointError, folder)


@pytest.mark.parametrize("absolute", [False, True])
def test_link_that_leads_outside_is_refused(
    damaged: Damaged, tmp_path: Path, absolute: bool
) -> None:
    folder = damaged("shards")
    escape = outside(tmp_path, folder)
    first = sorted(folder.glob("*.safetensors"))[0]
    first.unlink()
    first.symlink_to((folder / escape).resolve() if absolute else escape)
    text = refusal(CheckpointError, folder)
    assert f"{first.name!r} points outside" in text
    assert str(tmp_path / "outside.safetensors") in text


def test_link_into_a_folder_named_like_the_hub_cache_is_refused(
    damaged: Damaged, tmp_path: Path
) -> None:
    folder = damaged("shards")
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    first = sorted(folder.glob("*.safetensors"))[0]
    first.rename(blobs / "hash")
    first.symlink_to(blobs / "hash")
    assert "points outside" in refusal(CheckpointError, folder)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_every_file_of_the_folder_is_contained(damaged: Damaged, tmp_path: Path, file: str) -> None:
    folder = damaged("bert")
    (folder / file).rename(tmp_path / "elsewhere")
    (folder / file).symlink_to(tmp_path / "elsewhere")
    assert f"{file!r} points outside" in refusal(CheckpointError, folder)


def test_link_inside_the_folder_is_followed(damaged: Damaged) -> None:
    folder = damaged("llada")
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    (folder / "model.safetensors").symlink_to("weights.safetensors")
    assert from_pretrained(folder)[0](IDS).logits.isfinite().all()


def test_link_that_goes_in_circles_is_refused(damaged: Damaged) -> None:
    folder = damaged("llada")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("model.safetensors")
    assert "model.safetensors" in refusal(CheckpointError, folder)


@pytest.mark.parametrize("content", ["{", '{"version": "1.0"}', "null"])
def test_damaged_tokenizer(damaged: Damaged, content: str) -> None:
    folder = damaged("bert")
    (folder / "tokenizer.json").write_text(content)
    text = refusal(CheckpointError, folder)
    assert "the tokenizer cannot be loaded" in text
    assert "tokenizer.json" in text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lada-tiny", "did you mean 'llada-tiny'?"),
        ("dream", "did you mean 'dream-tiny'?"),
        ("gpt-oss", "expected: dream-tiny, llada-tiny, an existing folder, or a hub id"),
        ("", "there is no model ''"),
        ("./no/such/folder", "there is no model './no/such/folder'"),
        ("../x/y", "there is no model '../x/y'"),
        ("a/b/c", "there is no model 'a/b/c'"),
    ],
)
def test_unknown_name(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", pytest.fail)
    assert message in refusal(CheckpointError, name)


def test_file_instead_of_its_folder(damaged: Damaged) -> None:
    folder = damaged("llada")
    text = refusal(CheckpointError, folder / "model.safetensors")
    assert f"do: pass {str(folder)!r}" in text


def test_revision_of_a_folder_is_refused(damaged: Damaged) -> None:
    text = refusal(CheckpointError, damaged("llada"), revision="main")
    assert "a revision can only be chosen on the hub" in text
    assert "the revision is not usable" in refusal(CheckpointError, "owner/name", revision=3)


@pytest.mark.parametrize("name", [None, 5, b"llada-tiny", ["llada-tiny"]])
def test_what_names_no_model(name: Any) -> None:
    assert f"got: {name!r}" in refusal(CheckpointError, name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": torch.int8}, "the dtype is not usable"),
        ({"dtype": torch.float8_e4m3fn}, "expected: torch.float64, torch.float32,"),
        ({"dtype": "float32"}, "got: 'float32'"),
        ({"device": "cuda:93"}, "the device is not usable"),
        ({"device": "kitchen"}, "'kitchen'"),
    ],
)
def test_bad_arguments(damaged: Damaged, arguments: dict[str, Any], message: str) -> None:
    assert message in refusal(ConfigError, damaged("llada"), **arguments)


def test_hub_id_without_a_network_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    text = refusal(CheckpointError, "GSAI-ML/LLaDA-8B-Base")
    assert "'GSAI-ML/LLaDA-8B-Base' is no local folder and could not be downloaded" in text
    assert "check the connection, or download the folder elsewhere" in text


class Response:
    """What the hub's client expects of an answer that it turns into an error."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.request = None


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (hub_errors.GatedRepoError, "accept the model's terms"),
        (hub_errors.RepositoryNotFoundError, "check the spelling"),
        (hub_errors.RevisionNotFoundError, "check the revision 'v9'"),
        (ConnectionError, "check the connection"),
    ],
)
def test_hub_errors_say_what_to_do(
    kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(*_: object, **__: object) -> str:
        if issubclass(kind, hub_errors.HfHubHTTPError):
            raise kind("no\nmore", response=Response())  # type: ignore[arg-type]
        raise kind("no\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    text = refusal(CheckpointError, "someone/llada", revision="v9")
    assert message in text
    assert f"got: {kind.__name__}: no more" in text
