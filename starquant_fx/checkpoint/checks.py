"""What can be saved: models that can be built again from their configuration."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

from starquant_fx.artifact_checks import STORED
from starquant_fx.checkpoint.format import DTYPES
from starquant_fx.compiled import compiled_model
from starquant_fx.errors import CheckpointError, InputError, StarQuantError, cause
from starquant_fx.models.folder import QUANTIZATION
from starquant_fx.models.registry import ARCHITECTURES, Architecture
from starquant_fx.recipe import Recipe
from starquant_fx.recipes import from_dict
from starquant_fx.sizes import SIZES, in_bytes

ARTIFACT = "starquant_fx.save_artifact keeps it, to be bound to the model again"


def check_compiled(compiled: object) -> Architecture:
    """Returns what a compiled model's own implementation is registered as.

    Raises:
        InputError: It is no compiled model, or one of another kind of model.
    """
    model = compiled_model(compiled)
    return check_kind(model.frame, model.config)


def check_kind(model: nn.Module, config: object) -> Architecture:
    """Returns what a model's own implementation is registered as.

    Args:
        model: The model, before or after compilation, with or without weights.
        config: Its configuration.

    Raises:
        InputError: It is a model of another kind.
    """
    for one in ARCHITECTURES.values():
        if type(model) is one.model and isinstance(config, one.config):
            return one
    raise InputError(
        "a model of this kind cannot be built again from its configuration",
        where="model",
        expected=f"a model of type {' or '.join(ARCHITECTURES)}, as from_pretrained loads it",
        got=type(model).__name__,
        hint=ARTIFACT,
    )


def published_keys(config: Any, frame: nn.Module, architecture: Architecture) -> dict[str, Any]:
    """The model's configuration as ``config.json`` has it, from which the same model is built.

    Args:
        config: The model's.
        frame: The model, with or without weights.
        architecture: What it is registered as.

    Raises:
        InputError: It does not describe the model.
    """
    try:
        values = config.to_published()
        values.pop(QUANTIZATION, None)
        published: dict[str, Any] = json.loads(json.dumps(values))
        again = architecture.config.from_dict(published)
        with torch.device("meta"):
            built = architecture.model(again)
    except (StarQuantError, TypeError, ValueError, RuntimeError) as error:
        raise _other_model(cause(error)) from error
    described, held = _shapes(built), _shapes(frame)
    if described != held:
        odd = sorted(n for n in described.keys() | held.keys() if described.get(n) != held.get(n))
        raise _other_model(f"{len(odd)} parameters that differ: {', '.join(odd[:3])}")
    return published


def dtype_name(model: nn.Module) -> str:
    """The float type of all parameters, as ``quantization_config`` names it.

    Raises:
        InputError: There are several.
    """
    held = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()})
    if len(held) != 1 or held[0] not in DTYPES:
        raise InputError(
            "the model's parameters are of several types",
            where="compiled",
            expected=f"one of {', '.join(DTYPES)}",
            got=", ".join(held),
            hint=f"load the model with one dtype; {ARTIFACT}",
        )
    return held[0]


def check_recipe(recipe: Recipe) -> dict[str, Any]:
    """Returns a recipe as JSON has it.

    Raises:
        InputError: It cannot be read back, as with a pass that is not registered.
    """
    values: dict[str, Any] = recipe.to_dict()
    try:
        fits = from_dict(json.loads(json.dumps(values))) == recipe
        got = "a recipe that is read back as another one"
    except (StarQuantError, TypeError, ValueError) as error:
        fits, got = False, cause(error)
    if not fits:
        raise InputError(
            "the recipe cannot be written",
            where="compiled.recipe",
            expected="registered passes, with options that their texts tell",
            got=got,
            hint="register the pass in starquant_fx.passes",
        )
    return values


def check_tensors(tensors: dict[str, Tensor]) -> None:
    """Raises a CheckpointError for a tensor of a type that is not written."""
    for name, tensor in tensors.items():
        if tensor.dtype not in STORED:
            raise CheckpointError(
                "a tensor of this type cannot be written",
                where=name,
                expected=", ".join(STORED.values()),
                got=str(tensor.dtype),
                hint="compile the model in another dtype",
            )


def check_shard_bytes(value: object, where: str = "shard_bytes") -> int:
    """Returns the bytes of a shard, from a whole number or a text such as ``5GB``.

    Raises:
        InputError: It is neither, or below 1.
    """
    if (size := in_bytes(value)) is None:
        raise InputError(
            "the size of a shard is not usable",
            where=where,
            expected=SIZES,
            got=repr(value)[:100],
            hint="leave the argument out",
        )
    return size


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {n: tuple(p.shape) for n, p in model.named_parameters(remove_duplicate=False)}


def _other_model(got: str) -> InputError:
    return InputError(
        "the configuration does not describe the model",
        where="compiled.config",
        expected="the configuration that the model was built from",
        got=got,
        hint=ARTIFACT,
    )
