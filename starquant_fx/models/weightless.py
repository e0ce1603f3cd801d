"""Models without weights: built from a configuration alone, their parameters take no memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from starquant_fx.capture import skeleton
from starquant_fx.models.folder import QUANTIZATION, require_float
from starquant_fx.models.named import NamedModel, named_model
from starquant_fx.models.published import published_config
from starquant_fx.models.registry import ARCHITECTURES, Architecture

CPU = torch.device("cpu")


def fake_model(model: str | NamedModel, layers: int | None = None) -> nn.Module:
    """Builds a model in bf16 whose parameters take no memory.

    Args:
        model: As of ``named_model``; a packed checkpoint gives the model that was compiled.
        layers: Number of layers instead of the configuration's.

    Returns:
        The model, in evaluation mode.

    Raises:
        InputError: There is no such model, or its layers cannot be chosen.
        StarQuantError: The folder holds no usable model.
    """
    named = named_model(model)
    config, folder = named.published, named.folder
    if named.packed:
        config = {key: value for key, value in config.items() if key != QUANTIZATION}
    if folder is not None:
        require_float(config, folder)
    architecture = ARCHITECTURES.get(config["model_type"])
    if architecture is None:
        assert folder is not None  # the sizes that have names are of our own models
        return _masked_lm(folder, config, layers)
    values = dict(config) if layers is None else {**config, architecture.depth: layers}
    if folder is None:
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
