"""Full-precision folders as they are published: ``config.json`` and safetensors by the published names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

from starquant_fx.checkpoint.checks import check_kind, dtype_name
from starquant_fx.checkpoint.format import SHARD, is_packed, shard_name
from starquant_fx.checkpoint.shards import plan, write_shard
from starquant_fx.checkpoint.writing import write_json, write_tokenizer
from starquant_fx.folders.kind import FolderKind
from starquant_fx.folders.writing import check_folder, replacing_folder
from starquant_fx.models.folder import CONFIG_FILE, QUANTIZATION
from starquant_fx.models.locate import TOKENIZER_FILES
from starquant_fx.models.registry import ARCHITECTURES
from starquant_fx.models.safetensors_files import INDEX_FILE
from starquant_fx.sampling.arguments import flag

WEIGHTS_FILE = "model.safetensors"
FILES = (CONFIG_FILE, WEIGHTS_FILE, INDEX_FILE, *TOKENIZER_FILES)
MODEL = FolderKind(
    "a model",
    main=WEIGHTS_FILE,
    mark_file=CONFIG_FILE,
    marked=lambda config: config.get("model_type") in ARCHITECTURES and not is_packed(config),
    owns=lambda name: name in FILES or SHARD.fullmatch(name) is not None,
)


def save_full_precision(
    model: nn.Module,
    folder: str | os.PathLike[str],
    tokenizer: Any,
    shard_bytes: int,
    force: bool,
) -> Path:
    """Writes one of our own models.

    Args:
        model: The model.
        folder: Where to.
        tokenizer: The model's, or None.
        shard_bytes: Bytes of a file of tensors at most.
        force: Whether a full-precision model that is there is replaced.

    Returns:
        The folder's path.

    Raises:
        InputError: Parameters are of several float types, or an argument does not fit.
        CheckpointError: The folder cannot be written, or something else is there.
    """
    config: Any = model.config
    check_kind(model, config)
    path = check_folder(folder, MODEL, flag("force", force))
    published = config.to_published()
    for key in ("auto_map", "dtype", QUANTIZATION):  # the first names code that is not here
        published.pop(key, None)
    published["torch_dtype"] = dtype_name(model)
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    with replacing_folder(path, MODEL) as place:
        write_tokenizer(place, tokenizer)
        write_json(place / CONFIG_FILE, published)
        shards = plan(tensors, shard_bytes)
        where: dict[str, str] = {}
        for number, names in enumerate(shards, 1):
            file = WEIGHTS_FILE if len(shards) == 1 else shard_name(number, len(shards))
            write_shard(place / file, {name: tensors[name] for name in names})
            where |= dict.fromkeys(names, file)
        if len(shards) > 1:
            size = sum(tensor.nbytes for tensor in tensors.values())
            index = {"metadata": {"total_size": size}, "weight_map": where}
            write_json(place / INDEX_FILE, index)
    return path
