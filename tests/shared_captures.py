"""One export for all models of a structure: it takes most of a small compilation, and depends on no weight."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

Traced = Callable[[nn.Module, tuple[Tensor, ...], tuple[dict[int, Any], ...]], fx.GraphModule]
PLAIN = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device)
WHOLE = ("starquant_fx.models.", "starquant_fx.integrations.hugging_face.", "transformers.models.")
"""Models of these modules are known to be traced alike where their structures are alike."""


class _UnlikeAnyError(Exception):
    """A model has something that cannot be compared."""


def sharing(traced: Traced) -> Traced:
    """Remembers what was traced of a structure, and gives it again with the tensors of the model that is asked about.

    Models without weights get fake tensors of the first one's mode, so that a program has one mode.

    Args:
        traced: ``starquant_fx.capture._traced``.
    """
    kept: dict[Hashable, fx.GraphModule] = {}

    @functools.wraps(traced)
    def shared(
        wrapper: nn.Module, inputs: tuple[Tensor, ...], axes: tuple[dict[int, Any], ...]
    ) -> fx.GraphModule:
        try:
            key = (_structure(wrapper), _kinds(inputs), repr(axes), _settings())
        except _UnlikeAnyError:
            return traced(wrapper, inputs, axes)
        if key not in kept:
            module = traced(wrapper, inputs, axes)
            if not _own(module, wrapper):
                return module
            kept[key] = module
        return _with_tensors_of(wrapper, kept[key])

    return shared


def _settings() -> Hashable:
    """What a trace depends on besides: how attention may be computed."""
    if _get_current_dispatch_mode() is not None:
        raise _UnlikeAnyError
    cuda = torch.backends.cuda
    ways = (cuda.flash_sdp_enabled, cuda.mem_efficient_sdp_enabled, cuda.math_sdp_enabled)
    return torch.get_default_dtype(), tuple(enabled() for enabled in ways)


def _kinds(tensors: tuple[Tensor, ...]) -> Hashable:
    return tuple((t.dtype, _sizes(t), t.device, isinstance(t, FakeTensor)) for t in tensors)


def _sizes(tensor: Tensor) -> Hashable:
    """Its shape; a symbol counts as what it was made of."""
    return tuple(s if isinstance(s, int) else ("free", s.node.hint) for s in tensor.shape)


def _structure(model: nn.Module) -> Hashable:
    """All that a trace depends on: classes, plain attributes, and the kinds of tensors and which of them are one."""
    inner = model.get_submodule("model")
    if not type(inner).__module__.startswith(WHOLE):
        raise _UnlikeAnyError
    modules = tuple((name, type(m), _attributes(m)) for name, m in model.named_modules())
    seen: dict[int, int] = {}
    tensors = tuple(
        (name, _kinds((t,)), t.requires_grad, seen.setdefault(id(t), len(seen)))
        for name, t in _tensors(model).items()
    )
    return modules, tensors


def _attributes(module: nn.Module) -> Hashable:
    found = []
    for name, value in vars(module).items():
        if name == "training" or name in ("_parameters", "_buffers", "_modules"):
            continue
        found.append((name, _comparable(value)))
    return tuple(found)


def _comparable(value: Any) -> Hashable:
    if isinstance(value, PLAIN):
        return type(value), value
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value), tuple(_comparable(one) for one in value)
    if isinstance(value, dict):
        return type(value), tuple((repr(k), _comparable(v)) for k, v in value.items())
    if dataclasses.is_dataclass(value) or hasattr(value, "to_json_string"):
        return type(value), repr(value)
    if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
        return value
    raise _UnlikeAnyError


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters(remove_duplicate=False)) | dict(
        model.named_buffers(remove_duplicate=False)
    )


def _held(module: fx.GraphModule) -> dict[str, Tensor]:
    """The tensors that a graph reads."""
    names = {str(n.target) for n in module.graph.nodes if n.op == "get_attr"}
    return {name: _get(module, name) for name in names}


def _get(module: nn.Module, name: str) -> Tensor:
    place, _, leaf = name.rpartition(".")
    tensor = getattr(module.get_submodule(place), leaf)
    assert isinstance(tensor, Tensor)
    return tensor


def _own(module: fx.GraphModule, model: nn.Module) -> bool:
    """Whether what the graph reads under a name of the model's is the model's."""
    own = _tensors(model)
    return all(
        name not in own
        or tensor is own[name]
        or (not isinstance(tensor, FakeTensor) and tensor.data_ptr() == own[name].data_ptr())
        for name, tensor in _held(module).items()
    )


def _with_tensors_of(model: nn.Module, module: fx.GraphModule) -> fx.GraphModule:
    own = _tensors(model)
    held = _held(module)
    if not any(isinstance(tensor, FakeTensor) for tensor in held.values()):
        held = {name: own.get(name, tensor) for name, tensor in held.items()}
    return fx.GraphModule(held, module.graph)
