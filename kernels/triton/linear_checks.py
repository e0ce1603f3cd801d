"""What ``tile_linear`` refuses."""

from __future__ import annotations

import torch
from torch import Tensor

from starquant_fx.kernels.triton.checks import FLOATS, INTEGERS, require, require_that
from starquant_fx.kernels.triton.layout import BLOCK, blocks, row_bytes

WHERE = "starquant::tile_linear"
MOST_CHANNELS = (2**31 - 1) // (255 * 128)
"""Channels whose products int32 can hold: 16 * 8 (4 bits) or 128 times a difference of up to 255."""
INT32, INT8, UINT8, FLOAT32 = (torch.int32,), (torch.int8,), (torch.uint8,), (torch.float32,)


def check_linear(
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
    where: str = WHERE,
) -> None:
    """Raises an InputError for what the kernel would read wrongly; arguments as ``tile_linear``, and the operator."""
    lead, row = codes.shape[:-1], (*codes.shape[:-1], 1)
    features = codes.shape[-1] if codes.dim() else 0
    rows = packed.shape[0] if packed.dim() else 0
    grouped = weight_scale.dim() == 2
    groups = weight_scale.shape[1] if grouped else 1
    rank = 0 if coefficients is None else coefficients.shape[-1]
    states = state_bias.shape[0] if state_bias is not None and state_bias.dim() else 0
    complete = (coefficients is None) == (image is None)
    require_that(
        where,
        (
            (2 <= weight_bits <= 8, "weights of 2 to 8 bits", weight_bits),
            (dtype in FLOATS, "a result in float32, float16 or bfloat16", dtype),
            (0 < features <= MOST_CHANNELS, f"1 to {MOST_CHANNELS} channels", features),
            (
                not grouped or (features % BLOCK == 0 and blocks(features) % max(groups, 1) == 0),
                "groups of channels that a block of 128 divides",
                f"{groups} groups of {features} channels",
            ),
            (groups > 0, "at least one group", groups),
            (not swiglu or rows % 2 == 0, "as many rows of gate as of up", f"{rows} rows"),
            (complete, "coefficients and image of a branch together", "one of them"),
            (rank % 16 == 0, "coefficients in multiples of 16", rank),
            (state is not None or state_bias is None, "the states of the tokens", "none"),
        ),
    )
    outputs = rows // 2 if swiglu else rows
    per_row = (rows, groups) if grouped else (rows,)
    require(
        where,
        codes.device,
        (
            ("codes", codes, INT8, codes.shape),
            ("scale", scale, FLOAT32, row),
            ("zero", zero, FLOAT32, row),
            ("packed", packed, UINT8, (rows, row_bytes(features, weight_bits))),
            ("weight_scale", weight_scale, FLOAT32, per_row),
            ("column_sum", column_sum, INT32, per_row),
            ("bias", bias, FLOATS, (rows,)),
            ("state", state, INTEGERS, lead),
            ("state_bias", state_bias, FLOATS, (states, rows)),
            ("coefficients", coefficients, FLOATS, (*lead, rank)),
            ("residual", residual, (dtype,), (*lead, outputs)),
        ),
    )
    if coefficients is not None:
        require(where, codes.device, (("image", image, (coefficients.dtype,), (rank, rows)),))
