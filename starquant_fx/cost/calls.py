"""A call of an operator as the formulas see it: arguments by name, sizes as sympy expressions."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import sympy
import torch
from torch import Tensor, fx

from starquant_fx.cost.units import BATCH, BF16, FP32, INT8, LENGTH, ROWS

ZERO = sympy.Integer(0)


@dataclasses.dataclass(frozen=True)
class Call:
    """One call.

    Attributes:
        name: Operator without its overload, such as ``aten.linear``.
        arguments: By the schema's names; tensors are fake ones.
        results: Tensors that it makes.
    """

    name: str
    arguments: Mapping[str, Any]
    results: tuple[Tensor, ...]

    def get(self, name: str) -> Any:
        """An argument, None where it was left out."""
        return self.arguments.get(name)

    @property
    def elements(self) -> sympy.Expr:
        """Elements of the first result."""
        return numel(self.results[0]) if self.results else ZERO


def operator_name(target: Any) -> str:
    """The name of a node's operator without its overload."""
    packet = getattr(target, "overloadpacket", None)
    if packet is not None:
        return str(packet)
    return f"python.{getattr(target, '__name__', target)}"


def bound(node: fx.Node) -> dict[str, Any]:
    """The arguments of a node's call by the names that the operator's schema gives them."""
    schema = getattr(node.target, "_schema", None)
    if schema is not None:
        names = [argument.name for argument in schema.arguments]
    else:
        try:
            names = list(inspect.signature(node.target).parameters)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            names = []
    names += [f"argument_{i}" for i in range(len(names), len(node.args))]
    return dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in a value, which may be nested in tuples and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from tensors(one)


def size(value: Any) -> sympy.Expr:
    """A size, symbolic or not, as an expression."""
    return value.node.expr if isinstance(value, torch.SymInt) else sympy.Integer(int(value))


def numel(tensor: Tensor) -> sympy.Expr:
    """Number of elements."""
    return sympy.Mul(*map(size, tensor.shape))


def stored(tensor: Tensor) -> sympy.Expr:
    """Bytes of a tensor's own elements; a dimension that was expanded counts once."""
    own = [
        size(n)
        for n, step in zip(tensor.shape, tensor.stride(), strict=True)
        if not (isinstance(step, int) and step == 0)
    ]
    return sympy.Mul(tensor.element_size(), *own)


def tokens(x: Tensor) -> sympy.Expr:
    """Elements of all dimensions but the last."""
    return sympy.Mul(*map(size, x.shape[:-1]))


def unit(dtype: torch.dtype) -> str:
    """The unit that multiplies matrices of a type."""
    if not dtype.is_floating_point:
        return INT8
    return FP32 if dtype.itemsize > 2 else BF16


def renaming(nodes: Iterable[fx.Node]) -> Callable[[sympy.Expr], sympy.Expr]:
    """Returns what puts B, L and R in the place of a capture's symbols.

    Args:
        nodes: Of its graph; the first input is ``input_ids`` [B, L], one named ``rows`` is [R].
    """
    names: dict[sympy.Expr, sympy.Expr] = {}
    inputs = [n for n in nodes if n.op == "placeholder"]
    for node in inputs:
        value = node.meta["val"]
        axes = (ROWS,) if node.target == "rows" else (BATCH, LENGTH) if node is inputs[0] else ()
        for axis, symbol in zip(value.shape, axes, strict=False):
            if (expression := size(axis)).is_Symbol:
                names[expression] = symbol
    return functools.cache(lambda expression: sympy.sympify(expression).xreplace(names))
