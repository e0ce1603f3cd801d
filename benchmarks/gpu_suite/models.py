"""Models at full size with random weights, made on the device; copies that share them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cpu_suite.torchao_int8 import stored_bytes
from cpu_suite.weights import deviation
from gpu_suite.specs import GpuModel
from starquant_fx.models.dream import DreamConfig, DreamModel
from starquant_fx.models.llada import LladaConfig, LladaModel


def random_model(
    spec: GpuModel, device: torch.device, seed: int = 0, dtype: torch.dtype = torch.bfloat16
) -> nn.Module:
    """A model from its configuration; hidden states and logits stay near one.

    Args:
        spec: The sizes.
        device: Where the weights are drawn; no other memory holds them at any time.
        seed: Of the draw.
        dtype: Of the weights.
    """
    model = empty_model(spec, device, dtype)
    fill(dict(model.named_parameters()), spec, seed)
    return model


def empty_model(
    spec: GpuModel, device: torch.device, dtype: torch.dtype = torch.bfloat16
) -> nn.Module:
    """A model from its configuration; nothing is written to the memory of its weights."""
    with torch.device("meta"):
        model: nn.Module = (
            DreamModel(DreamConfig.from_dict(spec.published()))
            if spec.family == "dream"
            else LladaModel(LladaConfig.from_dict(spec.published()))
        )
    return model.to(dtype).to_empty(device=device).eval().requires_grad_(False)


def fill(parameters: Mapping[str, nn.Parameter], spec: GpuModel, seed: int = 0) -> None:
    """Draws weights by name; see ``random_model``."""
    generator: torch.Generator | None = None
    for name, parameter in parameters.items():
        if generator is None:
            generator = torch.Generator(parameter.device).manual_seed(seed)
        if parameter.dim() == 2:
            spread = deviation(name, parameter.shape[1], spec.layers)
            parameter.normal_(0, spread, generator=generator)
        elif name.endswith("bias"):
            parameter.normal_(0, 0.1, generator=generator)
        else:
            parameter.fill_(1)


def blocks(model: nn.Module) -> nn.ModuleList:
    """The blocks of a LLaDA or Dream."""
    path = "model.transformer.blocks" if isinstance(model, LladaModel) else "model.layers"
    found = model.get_submodule(path)
    assert isinstance(found, nn.ModuleList)
    return found


def twin(model: nn.Module) -> nn.Module:
    """A copy with modules of its own that shares every weight."""
    memo: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
    return copy.deepcopy(model, memo)


def with_linears(model: nn.Module, make: Callable[[nn.Linear], nn.Module], head: bool) -> nn.Module:
    """A twin whose linears are something else.

    Args:
        model: The model; it stays as it is.
        make: Makes the new module of a linear.
        head: Whether the head is replaced too.
    """
    other: Any = twin(model)
    kept = None if head else other.get_output_embeddings()
    for parent in list(other.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and child is not kept:
                parent.register_module(name, make(child))
    found: nn.Module = other
    return found


def held_bytes(device: torch.device, *modules: nn.Module) -> int:
    """Bytes of all parameters and buffers of some modules on a device, shared ones once."""
    found: dict[int, int] = {}
    for module in modules:
        for tensor in module.state_dict(keep_vars=True).values():
            if isinstance(tensor, Tensor) and tensor.device.type == device.type:
                found[_identity(tensor)] = stored_bytes(tensor)
    return sum(found.values())


def _identity(tensor: Tensor) -> int:
    """Where the data are; a tensor that is made of others has no place of its own."""
    plain = type(tensor) in (Tensor, nn.Parameter)
    return tensor.data_ptr() if plain and tensor.numel() else id(tensor)
