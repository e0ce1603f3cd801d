"""Models without weights: built from a configuration alone, their parameters take no memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from starquant_fx.capture import skeleton
from starquant_fx.errors import InputError, nearest
from starquant_fx.models.folder import (
    CONFIG_FILE,
    QUANT_METHOD,
    QUANTIZATION,
    quant_method,
    read_config,
    read_published,
)
from starquant_fx.models.locate import HUB_ID, SHIPPED, locate
from starquant_fx.models.published import published_config
from starquant_fx.models.registry import ARCHITECTURES, Architecture

CPU = torch.device("cpu")
LLADA_8B: dict[str, Any] = {
    "model_type": "llada",
    "d_model": 4096,
    "n_heads": 32,
    "n_layers": 32,
    "mlp_hidden_size": 12288,
    "vocab_size": 126464,
    "embedding_size": 126464,
    "mask_token_id": 126336,
    "eos_token_id": 126081,
    "max_sequence_length": 4096,
    "rope_theta": 500000.0,
}
DREAM_7B: dict[str, Any] = {
    "model_type": "Dream",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "mask_token_id": 151666,
    "max_position_embeddings": 131072,
    "rope_theta": 1000000.0,
}
_BENCHMARK = {
    **LLADA_8B,
    "vocab_size": 32000,
    "embedding_size": 32000,
    "mask_token_id": 31999,
    "eos_token_id": 0,
}
SIZES: dict[str, dict[str, Any]] = {
    "LLaDA-8B": LLADA_8B,
    "Dream-7B": DREAM_7B,
    "12x1024": {
        **_BENCHMARK,
        "d_model": 1024,
        "n_heads": 16,
        "n_layers": 12,
        "mlp_hidden_size": 3072,
    },
    "2x4096": {**_BENCHMARK, "n_layers": 2},
}
"""Configurations by name: the published ones, and the models of ``benchmarks/cpu.py``."""


def fake_model(name: str, layers: int | None = None) -> nn.Module:
    """Builds a model in bf16 whose parameters take no memory.

    Args:
        name: A name in ``SIZES``, a shipped model, a folder, its ``config.json``, or a hub id; a packed checkpoint
            gives the model that was compiled.
        layers: Number of layers instead of the configuration's.

    Returns:
        The model, in evaluation mode.

    Raises:
        InputError: There is no such model, or its layers cannot be chosen.
        StarQuantError: The folder holds no usable model.
    """
    known = {one.lower(): config for one, config in SIZES.items()}
    config = known.get(name.lower())
    folder = Path(name)
    if config is None:
        folder = _config_folder(name)
        config = read_published(folder)
        if quant_method(config) == QUANT_METHOD:
            del config[QUANTIZATION]  # a packed checkpoint: the model that it was compiled from
        else:
            config = read_config(folder)
    architecture = ARCHITECTURES.get(config["model_type"])
    if architecture is None:
        return _masked_lm(folder, config, layers)
    values = dict(config) if layers is None else {**config, architecture.depth: layers}
    if name.lower() in known:
        sizes: Any = architecture.config(**values)
    else:
        sizes = published_config(architecture, values, folder)
    return fake_of(architecture, sizes, torch.bfloat16)


def fake_of(
    architecture: Architecture,
    sizes: Any,
    dtype: torch.dtype,
    device: torch.device = CPU,
) -> nn.Module:
    """Builds a model of our own whose parameters take no memory.

    Args:
        architecture: What to build.
        sizes: Its configuration.
        dtype: Float type of the parameters.
        device: Where they seem to be.

    Returns:
        The model, in evaluation mode.
    """
    with torch.device("meta"):
        built = architecture.model(sizes)
    with FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True):
        for module in built.modules():
            for leaf, parameter in module._parameters.items():
                if parameter is not None:
                    fake = torch.empty(parameter.shape, dtype=dtype, device=device)
                    module._parameters[leaf] = nn.Parameter(fake, requires_grad=False)
    return built.eval()


def _config_folder(name: str) -> Path:
    """The folder that holds a model's configuration.

    Raises:
        InputError: There is no such model.
    """
    path = Path(name).expanduser()
    if path.name == CONFIG_FILE and path.is_file():
        return path.parent
    if name in SHIPPED or path.is_dir():
        return locate(name)
    if HUB_ID.fullmatch(name):
        return locate(name, files=(CONFIG_FILE,))
    if path.is_file():
        raise InputError(
            "this file is no model's configuration",
            where=name,
            expected=f"a file that is called {CONFIG_FILE}, or its folder",
            got=path.name,
            hint=f"rename the file to {CONFIG_FILE}",
        )
    raise InputError(
        f"there is no model {name!r}",
        where="MODEL",
        expected=f"{', '.join((*SIZES, *SHIPPED))}, a folder, its {CONFIG_FILE}, or a hub id owner/name",
        got=repr(name),
        hint=nearest(name.lower(), (*map(str.lower, SIZES), *SHIPPED)) or "check the spelling",
    )


def _masked_lm(folder: Path, published: dict[str, Any], layers: int | None) -> nn.Module:
    """A model of transformers', built with random weights for the buffers that a capture needs, then without them."""
    from starquant_fx.models.masked_lm import masked_lm_class, set_mask_token
    from starquant_fx.models.tokenizer import load_tokenizer

    sizes, kind = masked_lm_class(folder, published)
    if layers is not None:
        sizes.num_hidden_layers = layers
    built = kind._from_config(sizes, attn_implementation="sdpa", dtype=torch.bfloat16).eval()
    set_mask_token(built, load_tokenizer(folder, published["model_type"]), folder)
    twin = skeleton(built)
    twin.config = built.config
    return twin
