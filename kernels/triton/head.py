"""``starquant::tile_greedy``: the head's greedy choice for some rows, without their logits in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from starquant_fx.kernels.triton import configs
from starquant_fx.kernels.triton.checks import FLOATS, require, require_that
from starquant_fx.kernels.triton.greedy import (
    combine_kernel,
    float_head_kernel,
    integer_head_kernel,
)
from starquant_fx.kernels.triton.launch import interpreting, on_its_device, require_device
from starquant_fx.kernels.triton.layout import BLOCK, blocks, grouping
from starquant_fx.kernels.triton.linear_checks import check_linear
from starquant_fx.kernels.triton.sizes import divided

WHERE, WHERE_INT8 = "starquant::tile_greedy", "starquant::tile_greedy_int8"
FLOAT_HEAD: Any = float_head_kernel
INTEGER_HEAD: Any = integer_head_kernel
COMBINE: Any = combine_kernel
STEP = 64
"""Channels of a step of a float head."""


@on_its_device
def tile_greedy(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """``reference.greedy(linear(x, weight, bias), by_probability=False)``, never in memory as [rows, vocab].

    Logits are summed in float32 and rounded to the type of ``x``; the softmax is over the rounded ones, in float32.

    Args:
        x: [R, d] float32, float16 or bfloat16.
        weight: [vocab, d] of the same type.
        bias: [vocab] float or None.

    Returns:
        Of every row: the largest logit [R], NaN if one is; the first token that has it [R] int64; its probability
        [R]. Floats are of the type of ``x``.

    Raises:
        InputError: Tensors do not fit each other.
        LoweringError: They are not on a CUDA device, and Triton is not interpreting.
    """
    require_device(x, WHERE)
    fits = x.dim() == weight.dim() == 2 and weight.shape[0] > 0 and x.shape[1] > 0
    require_that(
        WHERE, ((fits, "x [R, d] and weight [vocab, d]", f"{[*x.shape]} and {[*weight.shape]}"),)
    )
    rows, features = x.shape
    vocab = weight.shape[0]
    require(
        WHERE,
        x.device,
        (
            ("x", x, FLOATS, x.shape),
            ("weight", weight, (x.dtype,), (vocab, features)),
            ("bias", bias, FLOATS, (vocab,)),
        ),
    )
    results = _results(x, rows, x.dtype)
    if rows == 0:
        return results
    chosen = configs.choose_head(x.device, rows, 8 * x.element_size())
    parts = _parts(x, rows, vocab, chosen.n)
    FLOAT_HEAD[(divided(rows, chosen.t) * divided(vocab, chosen.n),)](
        *(x.contiguous(), weight.contiguous(), None if bias is None else bias.contiguous()),
        *(*parts, rows, vocab, features),
        **{"T": chosen.t, "N": chosen.n, "K": STEP, "SWAP": chosen.swap},
        **{"EVEN": features % STEP == 0, "BAND": chosen.band},
        **{"num_warps": chosen.warps, "num_stages": chosen.stages},
    )
    _combine(parts, results, rows)
    return results


@on_its_device
def tile_greedy_int8(
    codes: Tensor,
    scale: Tensor,
    zero: Tensor,
    packed: Tensor,
    weight_scale: Tensor,
    column_sum: Tensor,
    weight_bits: int,
    bias: Tensor | None,
    state: Tensor | None,
    state_bias: Tensor | None,
    coefficients: Tensor | None,
    image: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """``tile_greedy`` of a quantized head: the greedy choice from the rows of ``linear.tile_linear``.

    Args:
        codes: int8 [R, d].
        scale: float32 [R, 1].
        zero: float32 [R, 1].
        packed: As ``tile_linear``, like the rest.
        weight_scale: As there.
        column_sum: As there.
        weight_bits: As there.
        bias: As there.
        state: As there.
        state_bias: As there.
        coefficients: As there.
        image: As there.
        dtype: Type that logits are rounded to.

    Returns:
        As ``tile_greedy``, floats of type ``dtype``.

    Raises:
        InputError: Tensors do not fit each other.
        LoweringError: They are not on a CUDA device, and Triton is not interpreting.
    """
    require_device(codes, WHERE_INT8)
    given = (codes, scale, zero, packed, weight_scale, column_sum, weight_bits, bias, state)
    check_linear(
        *(*given, state_bias, coefficients, image, None, False, dtype),
        where=WHERE_INT8,
    )
    require_that(
        WHERE_INT8,
        (
            (codes.dim() == 2, "codes [R, d]", [*codes.shape]),
            (packed.shape[0] > 0, "at least one token", "an empty vocabulary"),
        ),
    )
    rows, features = codes.shape
    vocab = packed.shape[0]
    results = _results(codes, rows, dtype)
    if rows == 0:
        return results
    groups, group = grouping(weight_scale, features)
    chosen = configs.choose_head(codes.device, rows, 8)
    parts = _parts(codes, rows, vocab, chosen.n)
    tensors = (
        *(codes, scale, zero, packed.view(torch.int8), weight_scale, column_sum, bias),
        *(None if state_bias is None else state, state_bias, coefficients),
        *(None if coefficients is None else image, results[0]),
    )
    INTEGER_HEAD[(divided(rows, chosen.t) * divided(vocab, chosen.n),)](
        *(None if tensor is None else tensor.contiguous() for tensor in tensors),
        *(*parts, rows, vocab, features, packed.shape[1], blocks(features), groups),
        **{"T": chosen.t, "N": chosen.n, "BITS": 4 if weight_bits <= 4 else 8},
        **{"GROUP": group, "FLUSH": configs.flush(group)},
        **{"STATES": 0 if state_bias is None else state_bias.shape[0]},
        **{"RANK": 0 if coefficients is None else coefficients.shape[1]},
        **{"SWAP": chosen.swap, "EVEN": features % BLOCK == 0, "ASM": not interpreting()},
        **{"BAND": chosen.band, "num_warps": chosen.warps, "num_stages": chosen.stages},
    )
    _combine(parts, results, rows)
    return results


def _results(like: Tensor, rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    return (
        like.new_empty(rows, dtype=dtype),
        like.new_empty(rows, dtype=torch.int64),
        like.new_empty(rows, dtype=dtype),
    )


def _parts(like: Tensor, rows: int, vocab: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """What tiles leave: largest, index, sum of exponentials; each [rows, tiles]."""
    size = (rows, divided(vocab, width))
    return (
        like.new_empty(size, dtype=torch.float32),
        like.new_empty(size, dtype=torch.int32),
        like.new_empty(size, dtype=torch.float32),
    )


def _combine(
    parts: tuple[Tensor, Tensor, Tensor], results: tuple[Tensor, Tensor, Tensor], rows: int
) -> None:
    tiles = parts[0].shape[1]
    width = 1 << (tiles - 1).bit_length()
    COMBINE[(rows,)](*parts, *results, tiles, WIDTH=width, num_warps=4, num_stages=1)


def _tile_greedy_fake(
    x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    return _results(x, x.shape[0], x.dtype)


def _tile_greedy_int8_fake(codes: Tensor, *rest: object) -> tuple[Tensor, Tensor, Tensor]:
    dtype = rest[-1]
    assert isinstance(dtype, torch.dtype)
    return _results(codes, codes.shape[0], dtype)


torch.library.custom_op(
    WHERE,
    tile_greedy,
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? bias) -> (Tensor largest, Tensor tokens, Tensor probability)",
).register_fake(_tile_greedy_fake)
torch.library.custom_op(
    WHERE_INT8,
    tile_greedy_int8,
    mutates_args=(),
    schema="(Tensor codes, Tensor scale, Tensor zero, Tensor packed, Tensor weight_scale, Tensor column_sum, "
    "int weight_bits, Tensor? bias, Tensor? state, Tensor? state_bias, Tensor? coefficients, Tensor? image, "
    "ScalarType dtype) -> (Tensor largest, Tensor tokens, Tensor probability)",
).register_fake(_tile_greedy_int8_fake)
