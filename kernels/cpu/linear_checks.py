"""What ``panel_linears`` refuses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from starquant_fx.kernels.cpu.checks import require, require_states, require_that, up_to
from starquant_fx.kernels.reference import GROUP, PANEL

WHERE = "starquant::panel_linears"
UNFIT = "a linear has no kernel for these tensors"


def check_linears(
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
    rank: int,
) -> None:
    """Raises an InputError for what the kernel would read wrongly; arguments as of ``panel_linears``, and its rank."""
    lead, row = codes.shape[:-1], (*codes.shape[:-1], 1)
    channels = 0 if coefficients is None else coefficients.shape[-1]
    branched = any(pairs is not None for pairs in image)
    complete = not branched or (coefficients is not None and state is not None)
    require_that(
        UNFIT,
        WHERE,
        (
            (2 <= weight_bits <= 8, "weights of 2 to 8 bits", weight_bits),
            (codes.dim() > 0, "codes [..., d]", "a single number"),
            (complete, "coefficients and state of a branch", "none"),
            (channels <= rank, "at most 16 coefficients a token", channels),
        ),
    )
    require(
        UNFIT,
        WHERE,
        (
            ("codes", codes, torch.uint8, codes.shape),
            ("scale", scale, None, row),
            ("zero", zero, None, row),
            ("state", state, torch.int64, lead),
            ("coefficients", coefficients, None, (*lead, channels)),
        ),
    )
    tables = [t for t in (*state_bias, *image) if t is not None and t.dim()]
    states = min((table.shape[0] for table in tables), default=0)
    size = PANEL * up_to(codes.shape[-1], GROUP) // (2 if weight_bits <= 4 else 1)
    columns = zip(packed, weight_scale, column_sum, bias, state_bias, image, residual, strict=True)
    for panels, factors, sums, one, two, pairs, before in columns:
        n = factors.numel()
        wide = up_to(n, PANEL)
        require(
            UNFIT,
            WHERE,
            (
                ("weight_scale", factors, None, (n,)),
                ("column_sum", sums, torch.int32, (n,)),
                ("bias", one, None, (n,)),
                ("state_bias", two, None, (states, n)),
                ("residual", before, dtype, (*lead, n)),
            ),
        )
        require(
            UNFIT,
            WHERE,
            (
                ("packed", panels, torch.uint8, (wide // PANEL, size)),
                ("image", pairs, None, (states, rank // 2, wide, 2)),
            ),
            laid=True,
        )
    if state is not None and states:
        require_states(state, states, UNFIT, WHERE)
