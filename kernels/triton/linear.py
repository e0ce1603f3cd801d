"""``starquant::tile_linear``: the integer linear of the triton target, with its whole epilogue."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from starquant_fx.kernels.triton import configs
from starquant_fx.kernels.triton.gemm import finish_kernel, linear_kernel
from starquant_fx.kernels.triton.launch import interpreting, on_its_device, require_device
from starquant_fx.kernels.triton.layout import BLOCK, blocks, grouping
from starquant_fx.kernels.triton.linear_checks import WHERE, check_linear
from starquant_fx.kernels.triton.sizes import divided

LINEAR: Any = linear_kernel
FINISH: Any = finish_kernel
FINISH_T, FINISH_N = 16, 128
"""Tile of the kernel that finishes a split product."""


def tile_linear(
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
    residual: Tensor | None,
    swiglu: bool,
    dtype: torch.dtype,
) -> Tensor:
    """``reference.quantized_linear`` on signed codes, the low-rank branch, SwiGLU and the sum with a residual.

    ``y = (codes @ W^T - zero * column_sum) * scale * weight_scale + bias + state_bias[state] + coefficients @ image``,
    rounded once to ``dtype``. Integers are exact. No host synchronisation.

    Args:
        codes: int8 [..., d].
        scale: float32 [..., 1].
        zero: float32 [..., 1], integers.
        packed: What ``layout.tile_pack`` made of the weight codes, [n or 2 n, bytes].
        weight_scale: float32 [rows of ``packed``], or [rows, groups] for groups of channels, whose size is a multiple
            of 128.
        column_sum: Sum of the weight codes, int32, the shape of ``weight_scale``.
        weight_bits: 2..8.
        bias: [rows] or None.
        state: Integers [...] or None; a token with a state that there is not gets no bias of the state.
        state_bias: [S, rows] or None.
        coefficients: Of the low-rank branch, [..., r] with r a multiple of 16, zero in the columns of other states, or
            None.
        image: [r, rows] or None.
        residual: [..., n] of ``dtype``, or None. Added after the rounding.
        swiglu: The rows of ``packed`` are those of gate and, behind them, up; the result is ``silu(gate) * up``, every
            step rounded to ``dtype``.
        dtype: float32, float16 or bfloat16.

    Returns:
        [..., n] of type ``dtype``.

    Raises:
        InputError: Tensors do not fit each other.
        LoweringError: They are not on a CUDA device, and Triton is not interpreting.
    """
    require_device(codes, WHERE)
    rows, features = packed.shape[0], codes.shape[-1]
    check_linear(
        *(codes, scale, zero, packed, weight_scale, column_sum, weight_bits, bias, state),
        *(state_bias, coefficients, image, residual, swiglu, dtype),
    )
    grouped = weight_scale.dim() == 2
    tokens = codes.shape[:-1].numel()
    bits = 4 if weight_bits <= 4 else 8
    config = configs.choose(codes.device, tokens, rows, features, bits, grouped)
    options = Options(dtype, bias, state, state_bias, coefficients, image, residual, swiglu=swiglu)
    return launch(codes, scale, zero, packed, weight_scale, column_sum, bits, options, config)


@dataclasses.dataclass(frozen=True)
class Options:
    """What an epilogue does besides the scales; see ``tile_linear``."""

    dtype: torch.dtype
    bias: Tensor | None = None
    state: Tensor | None = None
    state_bias: Tensor | None = None
    coefficients: Tensor | None = None
    image: Tensor | None = None
    residual: Tensor | None = None
    swiglu: bool = False


@on_its_device
def launch(
    codes: Tensor,
    scale: Tensor,
    zero: Tensor,
    packed: Tensor,
    weight_scale: Tensor,
    column_sum: Tensor,
    bits: int,
    options: Options,
    config: configs.Config,
) -> Tensor:
    """``tile_linear`` with a tile of one's choice, and without checks; ``bits`` are 4 or 8."""
    rows, features = packed.shape[0], codes.shape[-1]
    outputs = rows // 2 if options.swiglu else rows
    out = codes.new_empty((*codes.shape[:-1], outputs), dtype=options.dtype)
    if out.numel() == 0:
        return out
    tokens, total = codes.shape[:-1].numel(), blocks(features)
    groups, group = grouping(weight_scale, features)
    flush = configs.flush(group)
    per_split = divided(divided(total, config.split), flush) * flush
    parts = divided(total, per_split)
    partial = None
    if parts > 1:
        kind = torch.float32 if group else torch.int32
        partial = codes.new_empty((parts, tokens, rows), dtype=kind)
    state = None if options.state_bias is None else options.state
    image = None if options.coefficients is None else options.image
    extras = (
        *(options.bias, state, options.state_bias, options.coefficients, image, options.residual),
        out,
    )
    common = [None if tensor is None else tensor.contiguous() for tensor in extras]
    sums = [weight_scale.contiguous(), column_sum.contiguous()]
    row_values = [scale.contiguous(), zero.contiguous()]
    constants = {
        **{"BITS": bits, "GROUP": group, "PAIR": options.swiglu},
        "STATES": 0 if options.state_bias is None else options.state_bias.shape[0],
        "RANK": 0 if options.coefficients is None else options.coefficients.shape[-1],
    }
    LINEAR[(_programs(tokens, outputs, config.t, config.n, options.swiglu), parts)](
        *(codes.contiguous(), *row_values, packed.contiguous().view(torch.int8), *sums),
        *(*common, partial),
        *(tokens, outputs, features, packed.shape[1], total, groups, per_split),
        **constants,
        **{"T": config.t, "N": config.n, "FLUSH": flush, "BAND": config.band},
        **{"SWAP": config.swap, "EVEN": features % BLOCK == 0, "ASM": not interpreting()},
        **{"PARTS": config.parts, "num_warps": config.warps, "num_stages": config.stages},
    )
    if partial is not None:
        grid = (_programs(tokens, outputs, FINISH_T, FINISH_N, options.swiglu),)
        FINISH[grid](
            *(partial, *row_values, *sums, *common, tokens, outputs, parts),
            **constants,
            **{"T": FINISH_T, "N": FINISH_N, "num_warps": 4, "num_stages": 1},
        )
    return out


def _programs(tokens: int, outputs: int, t: int, n: int, swiglu: bool) -> int:
    return divided(tokens, t) * divided(outputs, n // 2 if swiglu else n)


def _tile_linear_fake(
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
    residual: Tensor | None,
    swiglu: bool,
    dtype: torch.dtype,
) -> Tensor:
    outputs = packed.shape[0] // 2 if swiglu else packed.shape[0]
    return codes.new_empty((*codes.shape[:-1], outputs), dtype=dtype)


torch.library.custom_op(
    "starquant::tile_linear",
    tile_linear,
    mutates_args=(),
    schema="(Tensor codes, Tensor scale, Tensor zero, Tensor packed, Tensor weight_scale, Tensor column_sum, "
    "int weight_bits, Tensor? bias, Tensor? state, Tensor? state_bias, Tensor? coefficients, Tensor? image, "
    "Tensor? residual, bool swiglu, ScalarType dtype) -> Tensor",
).register_fake(_tile_linear_fake)
