"""Sound folders of a tiny random model, for cases to change."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

import starquant_fx
from starquant_fx.compiled import CompiledModel
from starquant_fx.models.folder import CONFIG_FILE
from starquant_fx.models.llada import LladaConfig, LladaModel
from starquant_fx.models.safetensors_files import INDEX_FILE
from starquant_fx.passes import FitSgat
from starquant_fx.recipe import CalibrationOptions, Recipe
from starquant_fx.recipes import get_recipe

VOCABULARY = 61
ARTIFACT = "artifact.safetensors"


def model() -> LladaModel:
    """A model of one layer and odd widths."""
    config = LladaConfig(
        d_model=36,
        n_heads=3,
        n_kv_heads=1,
        n_layers=1,
        mlp_hidden_size=75,
        vocab_size=VOCABULARY,
        embedding_size=VOCABULARY,
        mask_token_id=VOCABULARY - 1,
        eos_token_id=VOCABULARY - 2,
        max_sequence_length=64,
    )
    built = LladaModel(config)
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in built.parameters():
            noise = torch.randn(parameter.shape, generator=random)
            many = parameter.dim() > 1
            parameter.copy_(1.5 * noise / parameter.shape[-1] ** 0.5 if many else 1 + 0.2 * noise)
    return built.requires_grad_(False).eval()


def recipe(name: str) -> Recipe:
    """A named recipe with little calibration."""
    found = get_recipe(name)
    few = CalibrationOptions(samples=8, length=16, rollout_steps=1)
    passes = tuple(
        dataclasses.replace(p, epochs=2, batch=64) if isinstance(p, FitSgat) else p
        for p in found.passes
    )
    return dataclasses.replace(found, calibration=few, passes=passes)


def compiled_model(name: str) -> CompiledModel:
    """The model in a recipe."""
    random = torch.Generator().manual_seed(1)
    texts = torch.randint(3, VOCABULARY - 2, (8, 16), generator=random)
    return starquant_fx.compile(model(), recipe(name), calibration=texts)


def packed(folder: Path, name: str) -> Path:
    """Writes a checkpoint in three shards."""
    compiled = compiled_model(name)
    size = sum(tensor.nbytes for tensor in compiled.tensors().values())
    return compiled.save(folder, shard_bytes=size // 3 + 2000)


def artifact(folder: Path, name: str) -> Path:
    """Writes an artifact into a folder of its own."""
    folder.mkdir()
    starquant_fx.save_artifact(compiled_model(name), folder / ARTIFACT)
    return folder


def full(folder: Path) -> Path:
    """Writes the model in full precision, in two shards with an index."""
    folder.mkdir()
    one = model()
    (folder / CONFIG_FILE).write_text(json.dumps(one.config.to_published()))
    named = list(one.state_dict().items())
    where: dict[str, str] = {}
    for number, part in enumerate((named[::2], named[1::2]), 1):
        name = f"model-{number:05d}-of-00002.safetensors"
        save_file(dict(part), folder / name, {"format": "pt"})
        where |= dict.fromkeys(dict(part), name)
    index = {"metadata": {"total_size": 0}, "weight_map": where}
    (folder / INDEX_FILE).write_text(json.dumps(index))
    return folder
