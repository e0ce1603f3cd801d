"""The models' weights: one draw, saved once in both float types, and the token ids they are run on."""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import starquant_fx
from cpu_suite.specs import ModelSpec, Place, Shape
from starquant_fx.models.llada import LladaConfig, LladaModel
from starquant_fx.models.locate import locate

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ORDINARY = 16
"""Ids below this are left to special tokens."""
EMBEDDINGS = ("wte.weight", "embed_tokens.weight")
BLOCK_ENDS = ("attn_out.weight", "ff_out.weight", "o_proj.weight", "down_proj.weight")
HEAD = "model.transformer.ff_out.weight"
"""A LLaDA's head, whose name ends as that of a down projection."""


def prepare(place: Place) -> None:
    """Writes the model into the folders ``fp32`` and ``bf16``; both hold the same values, which bf16 has exactly."""
    if place.spec.shipped:
        source = locate(place.spec.name, None)
        config = json.loads((source / "config.json").read_text())
        (file,) = source.glob("*.safetensors")
        tensors = load_file(file)
    else:
        config, tensors = configuration(place.spec), draw(place.spec)
    for name, dtype in DTYPES.items():
        folder = place.folder / name
        folder.mkdir(exist_ok=True)
        config["torch_dtype"] = str(dtype).removeprefix("torch.")
        (folder / "config.json").write_text(json.dumps(config))
        values = {key: tensor.to(torch.bfloat16).to(dtype) for key, tensor in tensors.items()}
        save_file(values, folder / "model.safetensors")


def draw(spec: ModelSpec, seed: int = 0) -> dict[str, Tensor]:
    """Random weights of which hidden states and logits stay near one: linears of gain one, small ones at block ends.

    Args:
        spec: The sizes.
        seed: Of the draw.

    Returns:
        bf16 tensors by published name.
    """
    with torch.device("meta"):
        model = LladaModel(LladaConfig.from_dict(configuration(spec)))
    generator, found = torch.Generator().manual_seed(seed), {}
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            found[name] = torch.ones(parameter.shape, dtype=torch.bfloat16)
            continue
        spread = deviation(name, parameter.shape[1], spec.layers)
        values = torch.empty(parameter.shape).normal_(0, spread, generator=generator)
        found[name] = values.to(torch.bfloat16)
    return found


def deviation(name: str, inputs: int, layers: int) -> float:
    """The standard deviation of a matrix: one in an embedding, gain one in a linear, less where a block ends.

    Args:
        name: Published name of a LLaDA's or Dream's weight.
        inputs: Its columns.
        layers: Blocks of the model.
    """
    if name.endswith(EMBEDDINGS):
        return 1.0
    block_end = name.endswith(BLOCK_ENDS) and name != HEAD
    return (inputs * (2 * layers if block_end else 1)) ** -0.5


def token_ids(spec: ModelSpec, shape: Shape, seed: int = 0) -> Tensor:
    """Token ids int64 [B, L]; in every sequence half of them, at random places, are the mask token."""
    generator = torch.Generator().manual_seed(seed)
    size = (shape.batch, shape.length)
    ids = torch.randint(ORDINARY, spec.vocab - ORDINARY, size, generator=generator)
    ranks = torch.rand(size, generator=generator).argsort(-1).argsort(-1)
    return ids.masked_fill(ranks < shape.length // 2, spec.vocab - 1)


def masked_rows(spec: ModelSpec, ids: Tensor) -> Tensor:
    """Places of the masked tokens in the flattened ids: int64 [R]."""
    return (ids.flatten() == spec.vocab - 1).nonzero()[:, 0]


def load(place: Place, dtype: str) -> nn.Module:
    """The model in one of ``DTYPES``."""
    model, _ = starquant_fx.from_pretrained(place.folder / dtype, dtype=DTYPES[dtype])
    return model


def configuration(spec: ModelSpec) -> dict[str, Any]:
    """Published keys of a model of these sizes."""
    return {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "activation_type": "silu",
        "block_type": "llama",
        "layer_norm_type": "rms",
        "rope": True,
        "rope_full_precision": True,
        "include_bias": False,
        "weight_tying": False,
        "d_model": spec.width,
        "n_layers": spec.layers,
        "n_heads": spec.heads,
        "n_kv_heads": spec.heads,
        "mlp_hidden_size": spec.ffn,
        "max_sequence_length": 4096,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "vocab_size": spec.vocab,
        "embedding_size": spec.vocab,
        "mask_token_id": spec.vocab - 1,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }
