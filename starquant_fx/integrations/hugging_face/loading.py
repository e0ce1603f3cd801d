"""``from_pretrained`` of our models: the package's own loaders behind transformers' arguments."""

from __future__ import annotations

import copy
import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from starquant_fx.checkpoint.format import DTYPES, Quantization
from starquant_fx.checkpoint.reading import is_checkpoint, quantized_configuration
from starquant_fx.checkpoint.reading import load as load_packed
from starquant_fx.checkpoint.writing import quantization_of
from starquant_fx.errors import ConfigError, InputError
from starquant_fx.integrations.hugging_face.arguments import Asked, read
from starquant_fx.integrations.hugging_face.folders import model_folder
from starquant_fx.integrations.hugging_face.quantization_config import StarQuantConfig
from starquant_fx.integrations.hugging_face.quantizer import StarQuantQuantizer
from starquant_fx.lowering import AUTO
from starquant_fx.models.folder import CONFIG_FILE, QUANT_METHOD, QUANTIZATION, read_published
from starquant_fx.models.loading import from_pretrained
from starquant_fx.models.published import published_config
from starquant_fx.models.registry import ARCHITECTURES
from starquant_fx.models.safetensors_files import TensorFiles

if TYPE_CHECKING:
    from starquant_fx.integrations.hugging_face.modeling import DenoiserForMaskedLM
    from starquant_fx.recipe import Recipe

INFO = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


def load(
    cls: type[DenoiserForMaskedLM], name: str | os.PathLike[str], *model_args: Any, **given: Any
) -> Any:
    """Loads a full-precision folder, quantized on the way if that is asked for, or a packed checkpoint.

    Tensors are read as ``starquant_fx.from_pretrained`` and ``starquant_fx.load`` read them: compared with what the
    configuration describes, checked for NaN or against their hashes, and mapped to their files.

    Args:
        cls: The model class.
        name: A folder, or a hub id.
        *model_args: None.
        **given: ``config``, ``quantization_config`` (a ``StarQuantConfig``, or a dictionary), ``dtype`` (``auto`` = as
            stored; None = as ``starquant_fx.from_pretrained``; a packed checkpoint has its own), ``device_map`` (one
            device), ``subfolder``, ``output_loading_info``; ``revision``, ``cache_dir``, ``local_files_only``,
            ``force_download`` and ``token`` for the hub. Others must be None or False, or say what is done anyway.

    Returns:
        The model in evaluation mode, without gradients.

    Raises:
        InputError: An argument is not honoured, or does not fit the folder.
        CheckpointError: There is no such model, or its files are missing, damaged or not what the configuration
            describes.
        ConfigError: The configuration describes no model that is implemented; there is no such device.
        StarQuantError: As ``starquant_fx.compile``, when the model is quantized.
    """
    asked = read(model_args, given)
    folder = model_folder(name, asked.subfolder, asked.hub)
    config = _checked_config(cls, asked.config, folder)
    quantization = _quantization(asked.quantization)
    says = None
    if is_checkpoint(folder):
        says, recipe, _ = quantized_configuration(folder)
        _check_packed(says, recipe, quantization, asked)
        target = None if quantization is None or quantization.packed else quantization.target
        target = None if target == AUTO else target
        denoiser: nn.Module = load_packed(folder, target=target, device=asked.device)
    else:
        dtype = _stored_dtype(folder) if asked.dtype == "auto" else asked.dtype
        chosen = dtype if isinstance(dtype, torch.dtype) else None
        denoiser, tokenizer = from_pretrained(folder, dtype=chosen, device=asked.device)
        if quantization is not None:
            quantizer = StarQuantQuantizer(quantization, pre_quantized=False)
            denoiser = quantizer.compile(denoiser, tokenizer)
    config.name_or_path = str(name)
    model = wrapped(cls, config, denoiser, says)
    if says is None and not Path(name).expanduser().is_dir():
        model.base_model_id = str(name)
    return (model, {key: set() for key in INFO}) if asked.loading_info else model


def wrapped(
    cls: type[DenoiserForMaskedLM],
    config: Any,
    denoiser: nn.Module,
    says: Quantization | None = None,
) -> DenoiserForMaskedLM:
    """Gives a model of our own the form of transformers' models, with what they say of their quantization.

    Args:
        cls: The model class.
        config: The configuration; it gets the dtype and the quantization.
        denoiser: Our own model.
        says: The ``quantization_config`` of the checkpoint it comes from, if there is one.

    Returns:
        The model in evaluation mode.
    """
    model = cls(config, denoiser).eval()
    config.dtype = model.dtype
    if model.compiled is not None:
        packed = StarQuantConfig.of_packed(says or quantization_of(model.compiled))
        config.quantization_config = packed
        quantizer = StarQuantQuantizer(packed, pre_quantized=True)
        told: Any = model
        told.hf_quantizer, told.is_quantized = quantizer, True
        told.quantization_method = packed.quant_method
    return model


def _checked_config(cls: type[DenoiserForMaskedLM], given: Any, folder: Path) -> Any:
    """A copy of the configuration that was given, or the folder's.

    A configuration that describes another model than the folder's does not change what is loaded: it is refused.

    Raises:
        ConfigError: The folder's describes no model that is implemented, or one of another type.
        InputError: The one that was given differs from it.
    """
    published = read_published(folder)
    kind: Any = cls.config_class
    if published["model_type"] != kind.model_type:
        raise ConfigError(
            "the model is of another type",
            where=str(folder / CONFIG_FILE),
            expected=f"model_type {kind.model_type!r}, for {cls.__name__}",
            got=repr(published["model_type"]),
            hint="AutoModelForMaskedLM.from_pretrained(folder) finds the class",
        )
    found = published_config(ARCHITECTURES[kind.model_type], published, folder)
    if given is None:
        return kind.from_dict(published)
    differing = {
        field.name
        for field in dataclasses.fields(found)
        if field.name != "extra"
        and getattr(found, field.name) != getattr(given.published(), field.name)
    }
    says = getattr(given, QUANTIZATION, None)
    held = published.get(QUANTIZATION)
    if says is not None and dict(says) != held:
        differing.add(QUANTIZATION)
    if differing:
        raise InputError(
            "the configuration is not that of the folder",
            where=", ".join(sorted(differing)),
            expected=f"what {folder / CONFIG_FILE} says",
            got="another value, from config=... or an argument of that name",
            hint="leave it out: the weights fit their own configuration only",
        )
    return copy.deepcopy(given)


def _quantization(asked: Any) -> StarQuantConfig | None:
    """How to quantize.

    Raises:
        InputError: It is of another method.
    """
    if isinstance(asked, dict) and asked.get("quant_method") in (None, QUANT_METHOD):
        asked = StarQuantConfig.from_dict(asked)
    if asked is not None and not isinstance(asked, StarQuantConfig):
        raise InputError(
            "LLaDA and Dream are not quantized by this method here",
            where="quantization_config",
            expected="a StarQuantConfig",
            got=type(asked).__name__,
            hint="quantization_config=starquant_fx.StarQuantConfig('star-w4a4')",
        )
    return asked


def _check_packed(
    says: Quantization, recipe: Recipe, asked: StarQuantConfig | None, options: Asked
) -> None:
    """Raises an InputError if another recipe, dtype, mask token or calibration is asked of a packed checkpoint."""
    if isinstance(options.dtype, torch.dtype) and str(options.dtype) != f"torch.{says.dtype}":
        raise _packed("dtype", says.dtype, str(options.dtype))
    if asked is None:
        return
    if asked.recipe not in (None, recipe):
        raise _packed(f"{QUANTIZATION}.recipe", recipe.name, getattr(asked.recipe, "name", "none"))
    for name in ("calibration", "tokenizer", "cache"):
        if getattr(asked, name) is not None:
            raise _packed(f"{QUANTIZATION}.{name}", "None", "another value")
    if asked.mask_token_id not in (None, says.mask_token_id):
        expected, got = str(says.mask_token_id), str(asked.mask_token_id)
        raise _packed(f"{QUANTIZATION}.mask_token_id", expected, got)


def _packed(where: str, expected: str, got: str) -> InputError:
    return InputError(
        "the checkpoint is packed already, and cannot be changed while it is loaded",
        where=where,
        expected=f"{expected}, as it was saved, or nothing",
        got=got,
        hint="quantize the full-precision model again",
    )


def _stored_dtype(folder: Path) -> torch.dtype:
    """The float type that the configuration names, else that most of the checkpoint is stored in."""
    published: dict[str, Any] = read_published(folder)
    named = published.get("dtype") or published.get("torch_dtype")
    return DTYPES.get(str(named)) or TensorFiles(folder).most_common_dtype()
