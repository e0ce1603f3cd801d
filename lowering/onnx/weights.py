"""The tensors of an exported model: read, converted and laid out one by one, when they are written."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import ml_dtypes
import onnx_ir as ir
import torch
from torch import Tensor

from starquant_fx.kernels import reference

ONNX_TYPES = {
    torch.float32: ir.DataType.FLOAT,
    torch.int64: ir.DataType.INT64,
    torch.int32: ir.DataType.INT32,
    torch.int8: ir.DataType.INT8,
    torch.uint8: ir.DataType.UINT8,
    torch.bool: ir.DataType.BOOL,
}

HALVES = {torch.bfloat16: ir.DataType.BFLOAT16, torch.float16: ir.DataType.FLOAT16}


class Weights:
    """The tensors of a program by qualified name, as initializers of a model.

    Args:
        tensors: Real ones; what is in the model under other names stays as it is.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._read: dict[str, Callable[[], Tensor]] = {
            name: functools.partial(_on_the_cpu, tensor) for name, tensor in tensors.items()
        }
        self._types = {name: tensor.dtype for name, tensor in tensors.items()}
        self._tensors = tensors

    def read(self, name: str) -> Tensor:
        """The values of an initializer."""
        return self._read[name]()

    def bind(self, model: ir.Model) -> None:
        """Gives initializers their values; all floats become float32."""
        for name, value in model.graph.initializers.items():
            if name in self._read:
                self.set(value, lambda x: x, fixed(value), None, name)

    def keep(self, value: ir.Value) -> bool:
        """Leaves an initializer in the 16-bit float type that its tensor has; whether it has one."""
        tensor = self._tensors.get(str(value.name))
        if tensor is None or tensor.dtype not in HALVES:
            return False
        kind, shape = HALVES[tensor.dtype], ir.Shape(tensor.shape)

        def stored() -> ir.TensorProtocol:
            bits = tensor.detach().cpu().contiguous().view(torch.int16).numpy()
            return ir.tensor(bits.view(kind.numpy()), dtype=kind)

        value.dtype = kind
        value.const_value = ir.LazyTensor(stored, kind, shape, name=value.name)
        return True

    def has(self, name: str) -> bool:
        """Whether an initializer is one of the program's tensors or made from one."""
        return name in self._read

    def set(
        self,
        value: ir.Value,
        convert: Callable[[Tensor], Tensor],
        shape: tuple[int, ...],
        dtype: ir.DataType | None,
        source: str,
    ) -> None:
        """Makes an initializer what a function makes of a tensor, computed whenever it is read and never kept.

        Args:
            value: The initializer.
            convert: The function.
            shape: Of the result.
            dtype: Of the result: None = the tensor's own, float32 for floats; INT4 for integers in -8..7.
            source: Name of the tensor.
        """
        of, stored = self._read[source], self._types[source]
        kind = dtype or (ir.DataType.FLOAT if stored.is_floating_point else ONNX_TYPES[stored])

        def read() -> Tensor:
            made = convert(of()).contiguous()
            return made.float() if kind == ir.DataType.FLOAT else made

        def stored_tensor() -> ir.TensorProtocol:
            numbers = read().numpy()
            if kind == ir.DataType.INT4:
                numbers = numbers.astype(ml_dtypes.int4)
            return ir.tensor(numbers, dtype=kind)

        name = str(value.name)
        self._read[name], self._types[name] = read, stored
        value.shape = ir.Shape(shape)
        value.dtype = kind
        value.const_value = ir.LazyTensor(stored_tensor, kind, ir.Shape(shape), name=value.name)


def fixed(value: ir.Value) -> tuple[int, ...]:
    """The sizes of an initializer."""
    assert value.shape is not None
    return tuple(value.shape.numpy())


def _on_the_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu()


def codes_by_channel(
    packed: Tensor, bits: int, outputs: int, features: int, order: tuple[int, int] | None
) -> Tensor:
    """Packed weight codes as int8 [features, outputs]; with an order (a, b) channels [a, b] as [b, a]."""
    codes = reference.unpack(packed, bits, outputs, features).T
    return codes if order is None else codes.unflatten(0, order).transpose(0, 1).flatten(0, 1)
