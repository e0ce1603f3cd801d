"""Filling one of our own models from a published checkpoint."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from starquant_fx.errors import ConfigError, cause
from starquant_fx.models.config import HINT, PublishedConfig
from starquant_fx.models.folder import CONFIG_FILE
from starquant_fx.models.registry import Architecture
from starquant_fx.models.safetensors_files import TensorFiles
from starquant_fx.models.tensor_names import mismatch


def published_config(
    architecture: Architecture, published: dict[str, Any], folder: Path
) -> PublishedConfig:
    """Builds the configuration from published keys.

    Args:
        architecture: What the model type stands for.
        published: The content of ``config.json``.
        folder: The model's folder, for messages.

    Returns:
        The configuration.

    Raises:
        ConfigError: Keys are missing, wrong, or ask for what is not implemented.
    """
    try:
        return architecture.config.from_dict(published)
    except ConfigError as error:
        error.where = str(folder / CONFIG_FILE)
        raise


def load_published(
    architecture: Architecture,
    config: PublishedConfig,
    files: TensorFiles,
    dtype: torch.dtype,
    device: torch.device,
) -> nn.Module:
    """Builds a model on the meta device and puts the tensors of the files in their places.

    Args:
        architecture: What to build.
        config: Its configuration.
        files: The folder's tensors; their headers are compared before any value is read.
        dtype: Float type of the parameters.
        device: Where the model goes.

    Returns:
        The model.

    Raises:
        CheckpointError: Tensors are missing, extra, wrongly shaped or not finite.
        ConfigError: The configuration describes no model that can be built.
    """
    where = str(files.folder / CONFIG_FILE)
    depth = getattr(config, architecture.depth)
    if depth > len(files.entries):
        raise ConfigError(
            f"{architecture.depth} is larger than the number of tensors",
            where=where,
            expected=f"at most {len(files.entries)}",
            got=str(depth),
            hint=HINT,
        )
    try:
        with torch.device("meta"):
            model = architecture.model(config).requires_grad_(False)
    except (RuntimeError, TypeError, OverflowError) as error:
        raise ConfigError(
            "the sizes in the configuration describe no model that can be built",
            where=where,
            expected="sizes whose tensors fit into memory",
            got=cause(error),
            hint=HINT,
        ) from error
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    names = {name: architecture.published_name(name) for name in files.entries}
    refusal = mismatch(
        str(files.folder),
        missing=wanted.keys() - set(names.values()),
        extra=[name for name, ours in names.items() if ours not in wanted],
        misshapen=[
            f"{name}: expected {list(wanted[ours])}, got {list(files.entries[name].shape)}"
            for name, ours in names.items()
            if ours in wanted and files.entries[name].shape != wanted[ours]
        ],
        repeated=[name for name, times in Counter(names.values()).items() if times > 1],
    )
    if refusal:
        raise refusal
    state = {ours: files.read(name, dtype, device) for name, ours in names.items()}
    model.load_state_dict(state, strict=True, assign=True)
    return model
