"""Writing a compiled model as a folder of the format compressed-tensors, which other programs load."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from starquant_fx.checkpoint import checks
from starquant_fx.checkpoint.compressed_format import (
    METHOD,
    laid_out,
    quantization_config,
    shapes,
)
from starquant_fx.checkpoint.compressed_scaling import Moved, moved_scales
from starquant_fx.checkpoint.compressed_sites import (
    Quantized,
    inexpressible,
    quantized_linears,
)
from starquant_fx.checkpoint.contained import checkpoint_folder
from starquant_fx.checkpoint.format import SHARD, shard_name
from starquant_fx.checkpoint.reading import load
from starquant_fx.checkpoint.shards import plan, write_shard
from starquant_fx.checkpoint.writing import SHARD_BYTES, write_json
from starquant_fx.compiled import CompiledModel
from starquant_fx.folders.kind import FolderKind
from starquant_fx.folders.writing import check_folder, replacing_folder
from starquant_fx.kernels import reference
from starquant_fx.models.folder import CONFIG_FILE, QUANTIZATION, contained, quant_method
from starquant_fx.models.locate import TOKENIZER_FILES
from starquant_fx.models.safetensors_files import INDEX_FILE
from starquant_fx.program import CONSTANTS
from starquant_fx.sampling.arguments import flag

Made = dict[str, tuple[Tensor, Callable[[], Tensor]]]
"""Name of a tensor -> its shape and dtype, and what makes it."""


def _is_compressed(config: dict[str, Any]) -> bool:
    return quant_method(config) == METHOD


COMPRESSED = FolderKind(
    "a folder of compressed-tensors",
    main=shard_name(1, 1),
    mark_file=CONFIG_FILE,
    marked=_is_compressed,
    owns=lambda name: (
        name in (CONFIG_FILE, INDEX_FILE, *TOKENIZER_FILES) or SHARD.fullmatch(name) is not None
    ),
)


def convert(
    source: CompiledModel | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    shard_bytes: int | str = SHARD_BYTES,
    force: bool = False,
) -> Path:
    """Writes a model in the format compressed-tensors.

    Codes and scales of the weights are taken over exactly, under the published names of the tensors. What has no
    counterpart in the format is refused, not approximated.

    Args:
        source: A compiled model, or the folder or hub id of a packed checkpoint, whose tokenizer goes along.
        folder: Where to; its parent must exist.
        shard_bytes: Bytes of a file of tensors at most, or such as ``5GB``.
        force: Whether a folder of this format that is there is replaced.

    Returns:
        The folder's path.

    Raises:
        InputError: The model has something that the format cannot express, or an argument does not fit.
        CheckpointError: The checkpoint cannot be read, or the folder cannot be written.
    """
    limit = checks.check_shard_bytes(shard_bytes)
    path = check_folder(folder, COMPRESSED, flag("force", force))
    compiled = source if isinstance(source, CompiledModel) else load(source, target="reference")
    architecture = checks.check_compiled(compiled)
    linears = quantized_linears(compiled)
    made = _tensors(compiled, linears, moved_scales(compiled, linears))
    others = [
        name
        for name, module in compiled.frame.named_modules()
        if isinstance(module, nn.Linear) and name not in linears
    ]
    config = checks.published_keys(compiled.config, compiled.frame, architecture)
    config["torch_dtype"] = checks.dtype_name(compiled.frame)
    config[QUANTIZATION] = quantization_config(linears.values(), others)
    with replacing_folder(path, COMPRESSED) as place:
        if not isinstance(source, CompiledModel):
            _copy_tokenizer(checkpoint_folder(source), place)
        _write(place, made, limit)
        write_json(place / CONFIG_FILE, config)
    return path


def _tensors(compiled: CompiledModel, linears: dict[str, Quantized], moved: Moved) -> Made:
    """Every tensor of the folder, by its published name; codes are unpacked as they are written."""
    held = compiled.tensors()
    read = compiled.program.tensors()
    made: Made = {}
    parameters = {name for name, _ in compiled.frame.named_parameters()}
    for name in held:
        own = name.removeprefix(f"{CONSTANTS}.folded.")
        if own != name and own not in parameters:
            raise inexpressible(own, "a parameter of its own in the model", "one that passes made")
    for name, parameter in compiled.frame.named_parameters():
        owner, _, leaf = name.rpartition(".")
        folded = held.get(f"{CONSTANTS}.folded.{name}")
        if leaf == "weight" and owner in linears:
            made |= _of_linear(linears[owner], held, moved.outputs.get(owner))
        elif folded is not None:
            made[name] = _as_is(folded)
        elif name in read:
            scale = moved.outputs.get(owner) if leaf == "bias" else None
            made[name] = _as_is(held[name] if scale is None else held[name] * scale)
        elif parameter.dim() == 1 and leaf == "weight":  # a norm whose gain is in the linears
            gain = torch.ones(parameter.shape, dtype=parameter.dtype)
            made[name] = _as_is(gain * moved.gains.get(name, 1))
        else:
            raise inexpressible(name, "parameters that the graph reads", "one that it does not")
    return made


def _as_is(tensor: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
    return torch.empty_like(tensor, device="meta"), tensor.detach


def _of_linear(one: Quantized, held: dict[str, Tensor], scale: Tensor | None) -> Made:
    """The tensors of a quantized linear."""
    packed = held[f"{CONSTANTS}.{one.name}.packed"]
    scales = held[f"{CONSTANTS}.{one.name}.weight_scale"]
    wanted = scales if scale is None else scales * scale.float()

    def codes() -> Tensor:
        found = reference.unpack(packed.cpu(), one.weight_bits, one.outputs, one.features)
        return laid_out(one, found)

    makers: dict[str, Callable[[], Tensor]] = {
        "weight": codes,
        "weight_packed": codes,
        "weight_scale": lambda: wanted.float()[:, None],
        "weight_shape": lambda: torch.tensor([one.outputs, one.features]),
    }
    return {name: (shape, makers[name.rpartition(".")[2]]) for name, shape in shapes(one).items()}


def _write(place: Path, made: Made, limit: int) -> None:
    """Writes shards and the index."""
    planned = plan({name: shape for name, (shape, _) in made.items()}, limit)
    where: dict[str, str] = {}
    for number, names in enumerate(planned, 1):
        shard = shard_name(number, len(planned))
        write_shard(place / shard, {name: made[name][1]() for name in names})
        where |= dict.fromkeys(names, shard)
    size = sum(shape.nbytes for shape, _ in made.values())
    write_json(place / INDEX_FILE, {"metadata": {"total_size": size}, "weight_map": where})


def _copy_tokenizer(source: Path, place: Path) -> None:
    for name in TOKENIZER_FILES:
        path = contained(source, name)
        if path.is_file():
            shutil.copyfile(path, place / name)
