"""A second device to test placement on: tensors on ``lazy`` that are computed on the CPU and mix with nothing else.

A torch that was built for CPUs has no second device that computes. This one fails as a GPU does when tensors of two
devices meet, or when a CPU generator is asked for numbers of another device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("lazy", 0)
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Elsewhere(Tensor):
    """A tensor on the second device."""

    value: Tensor

    @staticmethod
    def __new__(cls, value: Tensor) -> Elsewhere:
        made: Elsewhere = Tensor._make_wrapper_subclass(
            cls,
            value.size(),
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            device=DEVICE,
            requires_grad=value.requires_grad,
        )
        made.value = value
        return made

    def tolist(self) -> Any:
        """The numbers; of a subclass torch does not give them."""
        return self.value.tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return run(func, args, kwargs or {})


class SecondDevice(TorchDispatchMode):
    """Makes the second device exist."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Computes one operator on the device of its tensors.

    Raises:
        RuntimeError: They are on two devices, or a generator is of another one.
    """
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    elsewhere = [t for t in tensors if isinstance(t, Elsewhere)]
    asked = kwargs.get("device")
    if not elsewhere and (any(isinstance(t, FakeTensor) for t in tensors) or not _is_second(asked)):
        return func(*args, **kwargs)
    if any(t.dim() for t in tensors if not isinstance(t, Elsewhere)) and func not in COPIES:
        raise RuntimeError(f"{func}: tensors on two devices")
    if kwargs.get("generator") is not None:
        raise RuntimeError(f"{func}: a generator of another device")
    if _is_second(asked):
        kwargs = {**kwargs, "device": "cpu"}
    out = func(*tree_map(_value, args), **tree_map(_value, kwargs))
    name = func._schema.name
    if name.endswith("_") and not name.endswith("__"):
        return args[0]
    stays = _is_second(asked) or asked is None
    return tree_map(lambda t: Elsewhere(t) if isinstance(t, Tensor) else t, out) if stays else out


def _is_second(device: Any) -> bool:
    return device is not None and torch.device(device).type == DEVICE.type


def _value(one: Any) -> Any:
    return one.value if isinstance(one, Elsewhere) else one
