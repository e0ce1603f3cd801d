"""Folders that would take all time or memory are refused before they do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from starquant_fx import load_artifact, save_artifact
from starquant_fx.checkpoint.reading import load
from starquant_fx.checkpoint.shards import LARGEST_FILE, write_shard
from starquant_fx.errors import CheckpointError
from starquant_fx.models.folder import LARGEST_JSON
from starquant_fx.models.safetensors_files import LARGEST_HEADER, TensorFiles
from tests.checkpoint.forging import INDEX, edit, edit_config, retensor, seal, shard
from tests.checkpoint.test_bad_folders import refusal
from tests.compile_cases import compiled
from tests.small_models import model

Copied = Callable[[], Path]


@pytest.mark.parametrize("name", ["config.json", INDEX, "starquant_report.json"])
def test_json_of_many_megabytes(name: str, copied: Copied) -> None:
    folder = copied()
    (folder / name).write_bytes(b'{"a":[' + b"[]," * (LARGEST_JSON // 3) + b"[]]}")
    assert f"{name} is too large" in refusal(folder, check=False)


def test_a_large_file_is_not_hashed(copied: Copied) -> None:
    folder = copied()
    os.truncate(folder / "starquant_report.json", LARGEST_FILE + 1)
    assert f"got: {LARGEST_FILE + 1} bytes" in refusal(folder)


def large_header(path: Path) -> None:
    """Gives a safetensors file a header with blanks at its end."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    head = data[8:end] + b" " * (LARGEST_HEADER + 1)
    path.write_bytes(len(head).to_bytes(8, "little") + head + data[end:])


def test_a_large_header(copied: Copied, tmp_path: Path) -> None:
    folder = copied()
    large_header(shard(folder))
    assert f"more than {LARGEST_HEADER}" in refusal(folder)
    one = compiled("odd", "rtn-w4a4")
    path = save_artifact(one, tmp_path / "a.safetensors")
    large_header(path)
    with pytest.raises(CheckpointError, match=f"more than {LARGEST_HEADER}"):
        load_artifact(model("odd"), path)
    full = tmp_path / "full"
    full.mkdir()
    save_file({"a": torch.ones(2)}, full / "model.safetensors")
    large_header(full / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"more than {LARGEST_HEADER}"):
        TensorFiles(full)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_nobody_waits_for_a_pipe(copied: Copied, tmp_path: Path) -> None:
    folder = copied()
    path = shard(folder)
    path.unlink()
    os.mkfifo(path)
    assert "something that is no file" in refusal(folder)
    os.mkfifo(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="not a file"):
        load_artifact(model("odd"), tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"overrides": {"re:(.*)*(.*)*x": "w8a8"}}, "could take forever"),
        ({"ignore": ["re:" + ".*" * 30 + "x"]}, "could take forever"),
        ({"passes": ["assign-roles{" + "x=1," * 20_000 + "}"]}, "the text of a pass is too long"),
        ({"passes": ["fit-sgat{seed=" + "-" * 1900 + "1}"]}, "option seed has a wrong type"),
    ],
)
def test_recipes_that_take_forever(recipe: dict[str, Any], message: str, copied: Copied) -> None:
    folder = copied()

    def change(config: dict[str, Any]) -> None:
        config["quantization_config"]["recipe"].update(recipe)

    edit(folder / "config.json", change)
    seal(folder)
    assert message in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "starquant_report.json"])
def test_an_index_that_hides_a_change(name: str, copied: Copied) -> None:
    """Without its hash a file could be changed, and nobody would notice."""
    folder = copied()
    edit(folder / INDEX, lambda i: i["metadata"]["file_sha256"].pop(name))
    assert f"none of ['{name}']" in refusal(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(value: float, copied: Copied, tmp_path: Path) -> None:
    folder = copied()
    name, held = next(
        (n, t)
        for p in folder.glob("*.safetensors")
        for n, t in load_file(p).items()
        if t.is_floating_point()
    )
    held.view(-1)[-1] = value
    retensor(folder, name, held)
    assert f"{name} is not finite" in refusal(folder)
    load(folder, check=False)
    with pytest.raises(CheckpointError, match="x is not finite"):
        write_shard(tmp_path / "x.safetensors", {"x": torch.tensor([1.0, value])})


@pytest.mark.parametrize("value", [10**400, -(10**400), float("inf"), True])
def test_numbers_without_end(value: Any, copied: Copied) -> None:
    folder = copied()
    edit_config(folder, rope_theta=value, d_model=value)
    assert "is not usable" in refusal(folder)
