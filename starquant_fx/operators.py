"""The ``starquant::`` operators: schema, fake implementation, reference implementation.

Importing this module registers them. The implementations are those of ``starquant_fx.kernels.reference``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from starquant_fx.errors import not_finite
from starquant_fx.kernels import reference

NAMESPACE = "starquant"


def _operator(function: Callable[..., Any], fake: Callable[..., Any], schema: str) -> None:
    """Registers ``starquant::<function name>`` with its schema, reference and fake implementation."""
    qualified = f"{NAMESPACE}::{function.__name__}"
    operator = torch.library.custom_op(qualified, function, mutates_args=(), schema=schema)
    operator.register_fake(fake)


def _refusing(function: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    """A quantizer that refuses what is not finite. Traces hold the operator, so that they do not see the check."""

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        codes, scale, zero = function(*args, **kwargs)
        if not bool(scale.isfinite().all()):  # what is not finite in a token makes its scale so
            raise not_finite(f"{NAMESPACE}::{function.__name__}")
        return codes, scale, zero

    return checked


def _partition_fake(x: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    tokens = state.numel()
    return x.new_empty(tokens, x.shape[-1]), state.new_empty(tokens), state.new_empty(tokens)


def _quantize_activation_fake(
    x: Tensor, bits: int, symmetric: bool, clip: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    row = (*x.shape[:-1], 1)
    return (
        x.new_empty(x.shape, dtype=torch.uint8),
        x.new_empty(row, dtype=torch.float32),
        x.new_empty(row, dtype=torch.float32),
    )


def _transform_quantize_fake(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _quantize_activation_fake(x, 8, False, None)


def _pack_fake(codes: Tensor, bits: int) -> Tensor:
    panels, groups = (
        (size + step - 1) // step
        for size, step in zip(codes.shape, (reference.PANEL, reference.GROUP), strict=True)
    )
    stored = reference.PANEL * reference.GROUP // (2 if bits <= 4 else 1)
    return codes.new_empty(panels, groups * stored, dtype=torch.uint8)


def _same(x: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(x)


def _register() -> None:
    quantized_activation = "(Tensor codes, Tensor scale, Tensor zero)"
    _operator(
        reference.token_state,
        lambda input_ids, mask_token_id: torch.empty_like(input_ids, dtype=torch.int64),
        "(Tensor input_ids, int mask_token_id) -> Tensor",
    )
    _operator(
        reference.ratio_state,
        lambda state, keep, edges: torch.empty_like(state),
        "(Tensor state, Tensor? keep, float[] edges) -> Tensor",
    )
    _operator(
        reference.partition,
        _partition_fake,
        "(Tensor x, Tensor state) -> (Tensor tokens, Tensor states, Tensor order)",
    )
    _operator(
        reference.scatter,
        lambda y, order, like: y.new_empty(*like.shape, y.shape[-1]),
        "(Tensor y, Tensor order, Tensor like) -> Tensor",
    )
    _operator(reference.center, _same, "(Tensor x, Tensor state, Tensor means) -> Tensor")
    _operator(reference.rotate, _same, "(Tensor x, Tensor[] factors, str structure) -> Tensor")
    _operator(reference.gate, _same, "(Tensor x, Tensor state, int shared, int[] bounds) -> Tensor")
    _operator(reference.compensate, _same, "(Tensor x, Tensor matrix, Tensor bias) -> Tensor")
    _operator(
        reference.compensate_by_state,
        _same,
        "(Tensor x, Tensor state, int[] index, Tensor matrix, Tensor bias) -> Tensor",
    )
    _operator(
        _refusing(reference.quantize_activation),
        _quantize_activation_fake,
        f"(Tensor x, int bits, bool symmetric, Tensor? clip) -> {quantized_activation}",
    )
    _operator(
        reference.dequantize_activation,
        lambda codes, scale, zero, dtype: torch.empty_like(codes, dtype=dtype),
        "(Tensor codes, Tensor scale, Tensor zero, ScalarType dtype) -> Tensor",
    )
    _operator(
        reference.quantize_weight,
        lambda w, bits, clip: (
            torch.empty_like(w, dtype=torch.int8),
            w.new_empty(w.shape[0], dtype=torch.float32),
        ),
        "(Tensor w, int bits, Tensor? clip) -> (Tensor codes, Tensor scale)",
    )
    _operator(reference.pack, _pack_fake, "(Tensor codes, int bits) -> Tensor")
    _operator(
        reference.dequantize_weight,
        lambda packed, scale, bits, features, dtype: packed.new_empty(
            scale.shape[0], features, dtype=dtype
        ),
        "(Tensor packed, Tensor scale, int bits, int features, ScalarType dtype) -> Tensor",
    )
    _operator(reference.add_state_bias, _same, "(Tensor y, Tensor state, Tensor bias) -> Tensor")
    _operator(
        reference.split_low_rank,
        lambda x, state, directions: (
            torch.empty_like(x),
            x.new_empty(*x.shape[:-1], directions.shape[-1]),
        ),
        "(Tensor x, Tensor state, Tensor directions) -> (Tensor rest, Tensor coefficients)",
    )
    _operator(
        reference.add_low_rank,
        _same,
        "(Tensor y, Tensor state, Tensor coefficients, Tensor image) -> Tensor",
    )
    _operator(
        reference.quantized_linear,
        lambda codes, scale, zero, packed, weight_scale, *rest: codes.new_empty(
            *codes.shape[:-1], weight_scale.shape[0], dtype=rest[-1]
        ),
        "(Tensor codes, Tensor scale, Tensor zero, Tensor packed, Tensor weight_scale, Tensor column_sum, "
        "int weight_bits, Tensor? bias, Tensor? state, Tensor? state_bias, ScalarType dtype) -> Tensor",
    )
    _operator(
        _refusing(reference.transform_quantize),
        _transform_quantize_fake,
        "(Tensor x, Tensor? state, Tensor? means, Tensor[] factors, str structure, int shared, int[] bounds, "
        f"Tensor? matrix, Tensor? offset, int bits, bool symmetric, Tensor? clip) -> {quantized_activation}",
    )
    _operator(
        reference.greedy,
        lambda logits, by_probability: (
            logits.new_empty(logits.shape[0]),
            logits.new_empty(logits.shape[0], dtype=torch.int64),
            logits.new_empty(logits.shape[0]),
        ),
        "(Tensor logits, bool by_probability) -> (Tensor largest, Tensor tokens, Tensor probability)",
    )


_register()

Operator = Callable[..., Any]


def op(name: str) -> Any:
    """Returns the overload ``torch.ops.starquant.<name>.default``, as it stands in a graph's ``node.target``."""
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def names() -> Sequence[str]:
    """Names of all registered operators, without the namespace."""
    return tuple(
        n
        for n, f in vars(reference).items()
        if callable(f) and hasattr(getattr(torch.ops, NAMESPACE), n)
    )
