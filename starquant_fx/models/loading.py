"""``from_pretrained``: a model and its tokenizer from a shipped name, a folder or the hub."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

import torch
from torch import nn

from starquant_fx.devices import usable_device
from starquant_fx.errors import ConfigError
from starquant_fx.models.folder import read_config
from starquant_fx.models.locate import locate
from starquant_fx.models.published import load_published, published_config
from starquant_fx.models.registry import ARCHITECTURES
from starquant_fx.models.safetensors_files import FLOAT_TYPES, TensorFiles
from starquant_fx.models.tensor_names import HARMLESS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Below this many parameters a model on the CPU computes in float32 unless asked otherwise.
SMALL = 1_000_000_000


def from_pretrained(
    name_or_folder: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    revision: str | None = None,
) -> tuple[nn.Module, PreTrainedTokenizerBase | None]:
    """Loads a masked diffusion language model, or any masked language model, and its tokenizer.

    LLaDA (LLaDA-8B, LLaDA-1.5) and Dream (Dream-v0, Dream-Coder, DiffuCoder) have implementations of their own and
    accept the published folders; LLaDA also under Llama's tensor names. Any other model must be one that transformers
    knows as ``...ForMaskedLM`` with SDPA attention. Only safetensors are read, and no code from a repository is run.

    On the CPU, weights that need no conversion stay mapped to their files, and take memory once they are used: do not
    overwrite these in place while the model is in use (replacing them is harmless).

    Args:
        name_or_folder: ``"llada-tiny"`` or ``"dream-tiny"``, a local folder, or a hub id ``owner/name``.
        dtype: Float type of all parameters. None: float32 for a model of less than 10⁹ parameters on the CPU, else
            the type that most of the checkpoint is stored in.
        device: Where the model goes; the CPU by default.
        revision: Branch, tag or commit, for a hub id only.

    Returns:
        The model in evaluation mode, without gradients, and a transformers fast tokenizer, or None where the folder
        holds no vocabulary. ``model.config.mask_token_id`` is set; for a transformers model it comes from the
        tokenizer unless the configuration has it, and is None if neither does.

    Raises:
        CheckpointError: There is no such model, or its files are missing, damaged, not what ``config.json``
            describes, or lead outside of the folder; weights are not finite.
        ConfigError: ``config.json`` is missing, incomplete or names an unsupported model; the dtype or device is not
            usable.
    """
    place = usable_device(device)
    if dtype is not None and dtype not in FLOAT_TYPES.values():
        raise ConfigError(
            "the dtype is not usable",
            where="dtype",
            expected=", ".join(map(str, FLOAT_TYPES.values())),
            got=repr(dtype),
            hint="dtype=torch.float32, or leave the argument out",
        )
    # transformers takes seconds to import.
    from starquant_fx.models import masked_lm
    from starquant_fx.models.tokenizer import load_tokenizer

    folder = locate(name_or_folder, revision)
    published = read_config(folder)
    architecture = ARCHITECTURES.get(published["model_type"])
    if architecture is not None:
        config = published_config(architecture, published, folder)
        fill = functools.partial(load_published, architecture, config)
    else:
        config, model_class = masked_lm.masked_lm_class(folder, published)
        fill = functools.partial(masked_lm.load_masked_lm, model_class, config)
    tokenizer = load_tokenizer(folder, published["model_type"])
    files = TensorFiles(folder)
    files.leave_out(HARMLESS)
    model = fill(files, _working_dtype(files, dtype, place), place)
    if architecture is None:
        masked_lm.set_mask_token(model, tokenizer, folder)
    return model.requires_grad_(False).eval(), tokenizer


def _working_dtype(
    files: TensorFiles, asked: torch.dtype | None, device: torch.device
) -> torch.dtype:
    """Returns the one float type that all parameters get."""
    if asked is not None:
        return asked
    parameters = sum(entry.count for entry in files.entries.values())
    small = device.type == "cpu" and parameters < SMALL
    return torch.float32 if small else files.most_common_dtype()
