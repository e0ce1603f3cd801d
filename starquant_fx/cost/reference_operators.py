"""Formulas of the ``starquant::`` operators of programs, as if each were one kernel with integer products.

What the reference implementation really does (float64 products, one PyTorch call after another) is not modelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy
from torch import Tensor

from starquant_fx.cost.calls import Call, numel, size, tokens, unit
from starquant_fx.cost.units import ELEMENTWISE, INT8
from starquant_fx.cost.work import Kind, Work, formula, summed

QUANTIZE, EPILOGUE = 6, 4
"""Operations an element: minimum, maximum, scale, zero point, rounding, clamp; and zero point (2), scale, scale."""
Part = tuple[str, sympy.Expr]


def rotation(x: Tensor, factors: Sequence[Tensor], structure: str) -> list[Part]:
    """Operations of ``x Q``; see ``reference.rotate``."""
    parts, elements = list(factors), numel(x)
    counted: list[Part] = []
    if structure == "hadamard" and parts:
        counted.append((ELEMENTWISE, elements))
        parts = parts[1:]
    # Each factor, and each block, multiplies every element by as many numbers as it has rows.
    counted += [(unit(x.dtype), 2 * elements * size(part.shape[-1])) for part in parts]
    return counted


def correction(x: Tensor, matrix: Tensor | None) -> list[Part]:
    """Operations of TAC; see ``reference.compensate``."""
    if matrix is None:
        return []
    return [(unit(x.dtype), 2 * numel(x) * size(matrix.shape[-1])), (ELEMENTWISE, numel(x))]


def branch_in(x: Tensor, directions: Tensor | None) -> list[Part]:
    """Operations of ``x U`` and ``x - x U U^T``, for all states at once; see ``reference.split_low_rank``."""
    if directions is None:
        return []
    columns = size(directions.shape[0]) * size(directions.shape[-1])
    return [(unit(x.dtype), 4 * numel(x) * columns), (ELEMENTWISE, numel(x))]


def integer_product(codes: Tensor, outputs: Any, *added: Any) -> list[Part]:
    """Operations of an integer linear with its epilogue, and a sum for everything that is added to its results."""
    made = tokens(codes) * size(outputs)
    sums = sum(one is not None for one in added)
    return [
        (INT8, 2 * made * size(codes.shape[-1])),
        (ELEMENTWISE, (EPILOGUE + sums) * made),
    ]


def _kernel(*parts: Part) -> Work:
    return Work(Kind.KERNEL, summed(*parts))


@formula("starquant.token_state", "starquant.ratio_state", "starquant.add_state_bias")
def once(call: Call) -> Work:
    """One operation an element."""
    return _kernel((ELEMENTWISE, call.elements))


@formula("starquant.center", "starquant.gate", "starquant.partition", "starquant.scatter")
def per_channel(call: Call) -> Work:
    """One operation, or one move, for every channel of every token."""
    return _kernel((ELEMENTWISE, call.elements))


@formula("starquant.rotate")
def rotate(call: Call) -> Work:
    """The basis: dense 2 T d^2, Kronecker 2 T d (a + b), blocks 2 T d g."""
    return _kernel(*rotation(call.get("x"), call.get("factors"), call.get("structure")))


@formula("starquant.compensate", "starquant.compensate_by_state")
def compensate(call: Call) -> Work:
    """TAC: 2 T d g."""
    return _kernel(*correction(call.get("x"), call.get("matrix")))


@formula("starquant.quantize_activation", "starquant.quantize_weight")
def quantize(call: Call) -> Work:
    """Range, grid and codes."""
    return _kernel((ELEMENTWISE, QUANTIZE * call.elements))


@formula("starquant.dequantize_activation", "starquant.dequantize_weight", "starquant.pack")
def dequantize(call: Call) -> Work:
    """Two operations an element."""
    return _kernel((ELEMENTWISE, 2 * call.elements))


@formula("starquant.split_low_rank")
def split_low_rank(call: Call) -> Work:
    """4 T d S k."""
    return _kernel(*branch_in(call.get("x"), call.get("directions")))


@formula("starquant.add_low_rank")
def add_low_rank(call: Call) -> Work:
    """2 T S k n."""
    y, image = call.get("y"), call.get("image")
    columns = size(image.shape[0]) * size(image.shape[1])
    return _kernel((unit(y.dtype), 2 * numel(y) * columns), (ELEMENTWISE, numel(y)))


@formula("starquant.quantized_linear")
def quantized_linear(call: Call) -> Work:
    """2 T d n integer operations and the epilogue."""
    outputs = call.get("weight_scale").shape[0]
    return _kernel(
        *integer_product(call.get("codes"), outputs, call.get("bias"), call.get("state_bias"))
    )


@formula("starquant.transform_quantize")
def transform_quantize(call: Call) -> Work:
    """All of TAC, centring, basis, gates and quantizer that the call has."""
    x, elements = call.get("x"), numel(call.get("x"))
    passes = QUANTIZE + (call.get("means") is not None) + bool(call.get("bounds"))
    return _kernel(
        *correction(x, call.get("matrix")),
        *rotation(x, call.get("factors"), call.get("structure")),
        (ELEMENTWISE, passes * elements),
    )


@formula("starquant.greedy")
def greedy(call: Call) -> Work:
    """Largest logit and its probability: as a softmax without its division."""
    return _kernel((ELEMENTWISE, 4 * numel(call.get("logits"))))
