"""Folders that are damaged, foreign or forged are refused, and the refusal says what and where."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from starquant_fx.checkpoint.reading import load
from starquant_fx.errors import StarQuantError
from tests.checkpoint.forging import (
    INDEX,
    edit,
    edit_config,
    edit_quantization,
    flip,
    retensor,
    seal,
    shard,
)

Copied = Callable[[], Path]
OUTSIDE = "points outside"


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(StarQuantError) as caught:
        load(folder, **options)
    error = caught.value
    assert error.where
    assert error.expected
    assert error.got
    assert error.hint
    return str(error)


def cut(path: Path, to: int) -> None:
    os.truncate(path, to if to >= 0 else path.stat().st_size + to)


def swap_names(folder: Path) -> None:
    a, b = shard(folder, 1), shard(folder, 2)
    a.rename(folder / "x")
    b.rename(a)
    (folder / "x").rename(b)


def link(path: Path, to: Path) -> None:
    """Moves a file and puts a link in its place."""
    path.rename(to)
    path.symlink_to(to)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a shard cut short": (lambda f: cut(shard(f), -10), "is truncated or corrupt"),
    "a shard cut in its header": (lambda f: cut(shard(f, 2), 100), "is truncated or corrupt"),
    "a shard of no bytes": (lambda f: cut(shard(f, 3), 0), "is truncated or corrupt"),
    "a longer shard": (
        lambda f: cut(shard(f), shard(f).stat().st_size + 8),
        "truncated or corrupt",
    ),
    "no shard": (lambda f: shard(f, 2).unlink(), "model-00002-of-00003.safetensors is missing"),
    "a folder for a shard": (lambda f: folder_instead(shard(f)), "something that is no file"),
    "a bit of the last value": (lambda f: flip(shard(f), -1), "is not what was saved"),
    "a bit of a value": (lambda f: flip(shard(f, 2), -1000, 6), "is not what was saved"),
    "shards the other way round": (swap_names, "the index and the shard"),
    "a config of no bytes": (lambda f: cut(f / "config.json", 0), "not readable as JSON"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "another number in the config": (
        lambda f: edit(f / "config.json", lambda c: c.update(rope_theta=20000.0)),
        "config.json is not what was saved",
    ),
    "an index of no bytes": (lambda f: cut(f / INDEX, 0), "not readable as JSON"),
    "no index": (lambda f: (f / INDEX).unlink(), f"{INDEX} is missing"),
    "a report of no bytes": (
        lambda f: cut(f / "starquant_report.json", 0),
        "starquant_report.json is not what was saved",
    ),
    "no report": (
        lambda f: (f / "starquant_report.json").unlink(),
        "starquant_report.json is missing",
    ),
    "a link outside": (lambda f: link(shard(f), f.parent / "elsewhere"), OUTSIDE),
    "a link inside": (lambda f: link(shard(f), f / "elsewhere"), "is a link"),
    "a config outside": (lambda f: link(f / "config.json", f.parent / "c.json"), OUTSIDE),
    "an index outside": (lambda f: link(f / INDEX, f.parent / "i.json"), OUTSIDE),
    "a report outside": (
        lambda f: link(f / "starquant_report.json", f.parent / "r.json"),
        OUTSIDE,
    ),
    "a link to nothing": (
        lambda f: dangling(shard(f)),
        "model-00001-of-00003.safetensors is missing",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage(damage: str, copied: Copied) -> None:
    change, message = DAMAGE[damage]
    folder = copied()
    change(folder)
    assert message in refusal(folder)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../odd/model-00001-of-00003.safetensors", "a.bin"]
)
def test_an_index_that_names_other_files(name: str, copied: Copied) -> None:
    folder = copied()

    def change(index: dict[str, Any]) -> None:
        index["weight_map"][next(iter(index["weight_map"]))] = name

    edit(folder / INDEX, change)
    text = refusal(folder)
    assert "the checkpoint is damaged" in text
    assert repr(name) in text


def test_an_index_that_hashes_other_files(copied: Copied) -> None:
    folder = copied()
    edit(folder / INDEX, lambda i: i["metadata"]["file_sha256"].update({"../x": "0"}))
    assert "'../x'" in refusal(folder)


@pytest.mark.parametrize("key", ["tensor_sha256", "header_sha256", "total_size", "weight_map"])
def test_an_index_that_lacks_something(key: str, copied: Copied) -> None:
    folder = copied()
    edit(folder / INDEX, lambda i: (i["metadata"].pop(key, None), i.pop(key, None)))
    assert f"{key} is missing" in refusal(folder)
    shutil.rmtree(folder)
    folder = copied()

    def change(index: dict[str, Any]) -> None:
        held = index["metadata"].get(key, index.get(key))
        if isinstance(held, dict):
            held.popitem()
        else:
            index["metadata"][key] += 1

    edit(folder / INDEX, change)
    text = refusal(folder)
    assert "the checkpoint is damaged" in text
    assert key in text or "tensor_sha256" in text


def test_every_bit_of_a_header_counts(copied: Copied) -> None:
    folder = copied()
    path = shard(folder)
    end = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    for at in range(0, end, 7):
        flip(path, at, at % 8)
        with pytest.raises(StarQuantError):
            load(folder)
        flip(path, at, at % 8)
    load(folder)


FORGERIES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another dtype": (
        lambda f: retensor(f, "q_proj.packed", torch.zeros(1, 1280, dtype=torch.int8)),
        "U8 [1, 1280], got I8 [1, 1280]",
    ),
    "another shape": (
        lambda f: retensor(f, "q_proj.packed", torch.zeros(2, 1280, dtype=torch.uint8)),
        "U8 [1, 1280], got U8 [2, 1280]",
    ),
    "a tensor less": (lambda f: retensor(f, "q_proj.packed", None), "1 missing"),
    "a tensor more": (lambda f: retensor(f, "more", torch.ones(2)), "1 extra (more)"),
    "more layers": (lambda f: edit_config(f, n_layers=2), "missing"),
    "a billion layers": (lambda f: edit_config(f, n_layers=10**9), "1000000000 layers"),
    "larger layers": (lambda f: edit_config(f, mlp_hidden_size=10**15), "wrongly shaped"),
    "a negative size": (lambda f: edit_config(f, d_model=-36), "d_model is not usable"),
    "an unknown model": (lambda f: edit_config(f, model_type="bert"), "model_type llada or Dream"),
    "names that are none": (lambda f: edit_config(f, architectures=3), "architectures must be"),
    "not quantized": (
        lambda f: edit_config(f, quantization_config=None),
        "the folder is no packed checkpoint",
    ),
    "another method": (
        lambda f: edit_quantization(f, quant_method="gptq"),
        "the folder is no packed checkpoint",
    ),
    "another version": (lambda f: edit_quantization(f, version=2), "of another version"),
    "a true version": (lambda f: edit_quantization(f, version=True), "of another version"),
    "an unknown key": (
        lambda f: edit_quantization(f, mask_token=3),
        "did you mean 'mask_token_id'?",
    ),
    "no dtype": (lambda f: edit_quantization(f, dtype=...), "dtype is missing"),
    "an unknown dtype": (lambda f: edit_quantization(f, dtype="int8"), "quantization_config.dtype"),
    "a wrong dtype": (lambda f: edit_quantization(f, dtype="bfloat16"), "got F32"),
    "an unknown target": (lambda f: edit_quantization(f, target="auto"), "config.target"),
    "no recipe": (lambda f: edit_quantization(f, recipe=[]), "the recipe lacks method"),
    "a number for a recipe": (lambda f: edit_quantization(f, recipe=3), "expected: a recipe"),
    "a recipe without passes": (lambda f: edit_quantization(f, recipe={}), "the recipe lacks"),
    "another mask token": (lambda f: edit_quantization(f, mask_token_id=99), "mask token"),
    "a mask token in words": (lambda f: edit_quantization(f, mask_token_id="60"), "mask_token_id"),
}


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("forgery", FORGERIES)
def test_what_the_hashes_do_not_tell(forgery: str, check: bool, copied: Copied) -> None:
    change, message = FORGERIES[forgery]
    folder = copied()
    change(folder)
    assert message in refusal(folder, check=check)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"passes": ["fuse"]}, "the recipe does not apply to the model"),
        ({"passes": ["fuze"]}, "did you mean 'fuse'?"),
        ({"weight_bits": 8}, "does not hold what its recipe makes"),
        ({"weight_bits": 9}, "weight bits are out of range"),
        ({"ignore": []}, "missing"),
        ({"ignore": ["role:q"]}, "extra"),
        ({"colour": "red"}, "unknown recipe key"),
    ],
)
def test_another_recipe(changed: dict[str, Any], message: str, copied: Copied) -> None:
    folder = copied()

    def change(config: dict[str, Any]) -> None:
        config["quantization_config"]["recipe"].update(changed)

    edit(folder / "config.json", change)
    seal(folder)
    assert message in refusal(folder)


def test_a_damaged_report(copied: Copied) -> None:
    folder = copied()
    edit(folder / "starquant_report.json", lambda r: r.update(bytes_aftr=1))
    seal(folder)
    assert "did you mean 'bytes_after'?" in refusal(folder)


def test_places_without_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("nowhere", "file", "loop", "a\0b"):
        assert "there is no checkpoint here" in refusal(tmp_path / name)
    assert "config.json is missing" in refusal(tmp_path)
    assert "this is no name of a folder" in refusal(3)  # type: ignore[arg-type]


def test_a_model_that_is_not_quantized() -> None:
    golden = Path(__file__).parents[1] / "goldens" / "llada"
    assert "starquant_fx.from_pretrained loads" in refusal(golden)


def test_other_arguments_are_checked_first(tmp_path: Path) -> None:
    for options, message in (
        ({"target": "cpuu"}, "unknown target"),
        ({"device": "quantum"}, "device"),
        ({"check": 1}, "check"),
        ({"observe": "print"}, "observe"),
    ):
        assert message in refusal(tmp_path / "nowhere", **options)


def test_a_snapshot_in_the_hubs_cache(sound: Path, tmp_path: Path) -> None:
    """There, files are links to blobs beside the snapshots."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for file in sound.iterdir():
        shutil.copy(file, blobs / file.name)
        (snapshot / file.name).symlink_to(blobs / file.name)
    load(snapshot)
