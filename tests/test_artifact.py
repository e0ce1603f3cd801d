"""Artifacts: what a compilation made can be written, read and bound to the model again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import starquant_fx
from starquant_fx.artifact import load_artifact, save_artifact
from starquant_fx.compiled import CompiledModel
from starquant_fx.errors import CheckpointError

GOLDEN = Path(__file__).parent / "goldens" / "llada"
IDS = torch.tensor([[3, 158, 40, 158, 7, 99, 158, 21]])


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return starquant_fx.from_pretrained(GOLDEN)[0]


@pytest.fixture(scope="module")
def compiled(model: torch.nn.Module) -> CompiledModel:
    calibration = torch.randint(0, 150, (16, 24), generator=torch.Generator().manual_seed(0))
    recipe = starquant_fx.get_recipe("star-w4a4")
    return starquant_fx.compile(model, recipe, calibration=calibration)


def test_loaded_artifact_gives_the_same_bits(
    model: torch.nn.Module, compiled: CompiledModel, tmp_path: Path
) -> None:
    path = save_artifact(compiled, tmp_path / "golden.safetensors")
    again = load_artifact(model, path)
    assert torch.equal(again(IDS).logits, compiled(IDS).logits)
    keep = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1]])
    assert torch.equal(again(IDS, keep).logits, compiled(IDS, keep).logits)
    assert again.report == compiled.report
    assert again.recipe == compiled.recipe
    assert [p.name for p in tmp_path.iterdir()] == ["golden.safetensors"]


def test_weights_are_stored_packed(compiled: CompiledModel, tmp_path: Path) -> None:
    path = save_artifact(compiled, tmp_path / "golden.safetensors")
    packed = {n: t for n, t in load_file(path).items() if n.endswith(".packed")}
    assert len(packed) == 7 * 3
    assert all(t.dtype == torch.uint8 for t in packed.values())
    assert packed["starquant.model.transformer.blocks.0.q_proj.packed"].shape == (64, 32)


def test_another_model_is_refused(
    model: torch.nn.Module, compiled: CompiledModel, tmp_path: Path
) -> None:
    path = save_artifact(compiled, tmp_path / "golden.safetensors")
    other = starquant_fx.from_pretrained(GOLDEN)[0]
    with torch.no_grad():
        next(other.parameters())[-1, -1] += 1
    with pytest.raises(CheckpointError, match="another model"):
        load_artifact(other, path)


def test_damaged_and_foreign_files_are_refused(
    model: torch.nn.Module, compiled: CompiledModel, tmp_path: Path
) -> None:
    path = save_artifact(compiled, tmp_path / "golden.safetensors")
    short = tmp_path / "short.safetensors"
    short.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_artifact(model, short)
    with pytest.raises(CheckpointError, match="not an artifact of this version"):
        load_artifact(model, GOLDEN / "model.safetensors")
    with safe_open(path, framework="pt") as file:
        metadata = {**file.metadata(), "version": "2"}
    newer = tmp_path / "newer.safetensors"
    save_file(load_file(path), newer, metadata)
    with pytest.raises(CheckpointError, match="version 2"):
        load_artifact(model, newer)


def test_missing_tensor_is_named(
    model: torch.nn.Module, compiled: CompiledModel, tmp_path: Path
) -> None:
    path = save_artifact(compiled, tmp_path / "golden.safetensors")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    name = next(n for n in tensors if n.endswith(".packed"))
    del tensors[name]
    save_file(tensors, path, metadata)
    with pytest.raises(starquant_fx.StarQuantError, match="cannot be bound") as caught:
        load_artifact(model, path)
    assert caught.value.where == name


@pytest.mark.parametrize("name", ["missing/x.safetensors", "x.pt"])
def test_bad_paths_write_nothing(compiled: CompiledModel, tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="cannot be written here"):
        save_artifact(compiled, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_report_survives_json(compiled: CompiledModel) -> None:
    values = json.loads(json.dumps(compiled.report.to_dict()))
    assert len(values["sites"]) == 4 * 3
    assert values["unquantized"] == [
        ["model.transformer.ff_out", "ignored by the recipe (role:head)"]
    ]
