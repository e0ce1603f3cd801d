"""Integer linears with the whole epilogue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from starquant_fx.kernels.cpu.library import call, floats, padded, row_pairs
from starquant_fx.kernels.cpu.linear_checks import check_linears
from starquant_fx.kernels.reference import GROUP, PANEL

RANK = 16
"""Directions of a state that the branch of the kernel has room for."""
WORDS = 9
"""Of a linear's row in the kernel's table."""


def panel_linear(
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
    dtype: torch.dtype,
    coefficients: Tensor | None = None,
    image: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """``reference.quantized_linear``, bit for bit unless there is a branch, and the sum with a residual.

    Args:
        codes: Activation codes uint8 [..., d].
        scale: float32 [..., 1].
        zero: float32 [..., 1].
        packed: What ``reference.pack`` made of the weight codes.
        weight_scale: float32 [n].
        column_sum: Sum of the weight codes per output channel, int32 [n].
        weight_bits: 2..8.
        bias: [n] or None.
        state: [...] or None.
        state_bias: [S, n] or None.
        dtype: float32, or another float type, which float32 is rounded to.
        coefficients: Of the low-rank branch, [..., k] with k <= 16, or None; needs the state.
        image: See ``branch_image``.
        residual: [..., n] of type ``dtype``, float32 or bfloat16, or None. Added after the rounding to ``dtype``.

    Returns:
        [..., n].

    Raises:
        InputError: As ``panel_linears``.
    """
    found = panel_linears(
        *(codes, scale, zero, [packed], [weight_scale], [column_sum], weight_bits, [bias], state),
        *([state_bias], dtype, coefficients, [image], [residual]),
    )
    return found[0]


def panel_linears(
    codes: Tensor,
    scale: Tensor,
    zero: Tensor,
    packed: Sequence[Tensor],
    weight_scale: Sequence[Tensor],
    column_sum: Sequence[Tensor],
    weight_bits: int,
    bias: Sequence[Tensor | None],
    state: Tensor | None,
    state_bias: Sequence[Tensor | None],
    dtype: torch.dtype,
    coefficients: Tensor | None,
    image: Sequence[Tensor | None],
    residual: Sequence[Tensor | None],
) -> list[Tensor]:
    """Several linears of one site as one product: ``panel_linear`` of each.

    Args:
        codes: As there, like all that is not a sequence.
        scale: As there.
        zero: As there.
        packed: Of each linear, like the other sequences.
        weight_scale: Of each.
        column_sum: Of each.
        weight_bits: As there.
        bias: Of each.
        state: As there.
        state_bias: Of each.
        dtype: As there.
        coefficients: As there.
        image: Of each.
        residual: Of each.

    Returns:
        [..., n] of each.

    Raises:
        InputError: Tensors do not fit each other, or a token has a state that there is not.
    """
    check_linears(
        *(codes, scale, zero, packed, weight_scale, column_sum, weight_bits, bias, state),
        *(state_bias, dtype, coefficients, image, residual, RANK),
    )
    rows, codes = codes.shape[:-1].numel(), padded(codes, GROUP)
    half = dtype == torch.bfloat16
    kept = dtype if half else torch.float32
    table, alive = torch.empty(len(packed), WORDS, dtype=torch.int64, device="cpu"), []
    columns = zip(packed, weight_scale, column_sum, bias, state_bias, image, residual, strict=True)
    for row, (panels, factors, sums, one, two, pairs, before) in zip(table, columns, strict=True):
        out = torch.empty(*codes.shape[:-1], factors.numel(), dtype=kept, device="cpu")
        used = (
            *(panels, floats(factors), sums.contiguous(), floats(one)),
            *(
                None if state is None else floats(two),
                None if pairs is None else pairs.to(torch.bfloat16),
                None if before is None else before.contiguous(),
            ),
            out,
        )
        alive.append(used)  # what was converted lives until the kernel is done
        words = [*(0 if t is None else t.data_ptr() for t in used), out.shape[-1]]
        row.copy_(torch.tensor(words, dtype=torch.int64, device="cpu"))
    call(
        "starquant_linears",
        *(codes, zero.to(torch.int32).contiguous(), floats(scale)),
        None if state is None else state.contiguous(),
        None if coefficients is None else padded(coefficients.to(torch.bfloat16), RANK),
        *(table, len(packed), rows, codes.shape[-1], 4 if weight_bits <= 4 else 8, int(half)),
    )
    return [used[-1].to(dtype) for used in alive]


def branch_image(image: Tensor) -> Tensor:
    """Lays [S, k, n], k <= 16, out in pairs of rows: bfloat16 [S, 8, n up to a whole panel, 2]."""
    rows = torch.nn.functional.pad(image, (0, 0, 0, RANK - image.shape[1]))
    return row_pairs(padded(rows, PANEL))


def _panel_linear_fake(
    codes: Tensor, scale: Tensor, zero: Tensor, packed: Tensor, weight_scale: Tensor, *rest: Any
) -> Tensor:
    dtype = next(value for value in rest if isinstance(value, torch.dtype))
    return codes.new_empty((*codes.shape[:-1], weight_scale.shape[0]), dtype=dtype)


torch.library.custom_op(
    "starquant::panel_linear",
    panel_linear,
    mutates_args=(),
    schema="(Tensor codes, Tensor scale, Tensor zero, Tensor packed, Tensor weight_scale, Tensor column_sum, "
    "int weight_bits, Tensor? bias, Tensor? state, Tensor? state_bias, ScalarType dtype, Tensor? coefficients=None, "
    "Tensor? image=None, Tensor? residual=None) -> Tensor",
).register_fake(_panel_linear_fake)


def _panel_linears_fake(
    codes: Tensor,
    scale: Tensor,
    zero: Tensor,
    packed: Sequence[Tensor],
    weight_scale: Sequence[Tensor],
    *rest: Any,
) -> list[Tensor]:
    dtype = next(value for value in rest if isinstance(value, torch.dtype))
    return [codes.new_empty((*codes.shape[:-1], one.shape[0]), dtype=dtype) for one in weight_scale]


torch.library.custom_op(
    "starquant::panel_linears",
    panel_linears,
    mutates_args=(),
    schema="(Tensor codes, Tensor scale, Tensor zero, Tensor[] packed, Tensor[] weight_scale, Tensor[] column_sum, "
    "int weight_bits, Tensor?[] bias, Tensor? state, Tensor?[] state_bias, ScalarType dtype, Tensor? coefficients, "
    "Tensor?[] image, Tensor?[] residual) -> Tensor[]",
).register_fake(_panel_linears_fake)
