"""What a site does to its input, in one kernel: transforms, gates and quantizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from starquant_fx.errors import not_finite
from starquant_fx.kernels.cpu.checks import unknown_state
from starquant_fx.kernels.cpu.library import call, floats, padded
from starquant_fx.kernels.cpu.linear import RANK, branch_image
from starquant_fx.kernels.cpu.site_checks import WHERE, check_site

TABLES = (
    *("matrix", "offset", "means", "directions", "back"),
    *("signs", "left", "right", "bounds", "clip"),
)
"""Names of the tables of ``site_tables``, in its order."""
TABLE_TYPES = {
    **dict.fromkeys(TABLES, torch.float32),
    **dict.fromkeys(("directions", "back", "left"), torch.bfloat16),
    "bounds": torch.int64,
}
"""Their types."""
NOT_FINITE = 2
"""What the kernel returns then; 1 = unknown state."""


def site_tables(
    matrix: Tensor | None,
    offset: Tensor | None,
    means: Tensor | None,
    directions: Tensor | None,
    factors: Sequence[Tensor],
    bounds: Sequence[int],
    clip: Tensor | None,
) -> list[Tensor | None]:
    """Lays a site's tables out as the kernel reads them.

    Args:
        matrix: TAC's [d / g, g, g] with g <= 16, or None.
        offset: TAC's [d] or None.
        means: [S, d] or None.
        directions: The branch's [S, d, k] with k <= 16, or None.
        factors: Of a basis of structure ``kronecker`` or ``hadamard`` with a right factor of at most 128, as
            ``reference.rotate`` takes them; empty = no basis.
        bounds: See ``reference.gate``; empty = no gates.
        clip: [2] or None.

    Returns:
        What ``site_codes`` takes.
    """
    left, right = factors[-2:] if factors else (None, None)
    return [
        *map(floats, (None if matrix is None else matrix.mT, offset, means)),
        *((None, None) if directions is None else _branch(directions)),
        floats(factors[0]) if len(factors) == 3 else None,
        None if left is None else padded(left.T, 2).to(torch.bfloat16),
        None if right is None else padded(right.float(), 16),
        torch.tensor(list(bounds), dtype=torch.int64, device="cpu") if bounds else None,
        floats(clip),
    ]


def site_codes(
    x: Tensor,
    state: Tensor | None,
    tables: Sequence[Tensor | None],
    rank: int,
    shared: int,
    bits: int,
    symmetric: bool,
    other: Tensor | None = None,
    eps: float | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a site does to its input: what stands before it, TAC, centring, low-rank branch, basis, gates, quantizer.

    Products with the left Kronecker factor and with the branch's directions are in bfloat16, summed in float32; the
    rest is float32 whatever ``x`` is.

    Args:
        x: [..., d].
        state: [...], or None where nothing depends on it.
        tables: See ``site_tables``.
        rank: k of the branch; 0 = none.
        shared: See ``reference.gate``.
        bits: 2..8.
        symmetric: See ``reference.quantize_activation``.
        other: [..., d]: the site reads ``silu(x) * other``. None: it reads ``x``.
        eps: It reads the RMS norm, without a gain, of that. None: no norm.

    Returns:
        Codes, scale and zero point as ``reference.quantize_activation``; the branch's coefficients [..., k] bfloat16.

    Raises:
        InputError: A value (also one that a gate closes off) or the range of a token is not finite, a token has a
            state that there is not, or tensors do not fit each other.
    """
    states = check_site(x, state, tables, rank, shared, bits, other, RANK)
    matrix, left, right = (tables[TABLES.index(name)] for name in ("matrix", "left", "right"))
    tokens, half = x.shape[:-1].numel(), x.dtype == torch.bfloat16
    codes = torch.empty(x.shape, dtype=torch.uint8, device="cpu")
    row = (*x.shape[:-1], 1)
    scale, zero = (torch.empty(row, dtype=torch.float32, device="cpu") for _ in range(2))
    coefficients = torch.empty(*x.shape[:-1], rank, dtype=torch.bfloat16, device="cpu")
    used = [
        *(None if t is None else (t if half else t.float()).contiguous() for t in (x, other)),
        state.contiguous() if state is not None and states else None,
        # In the type that the kernel reads, whatever ``model.to(dtype)`` made of them.
        *(
            None if table is None else table.to(kind)
            for table, kind in zip(tables, TABLE_TYPES.values(), strict=True)
        ),
        *(codes, scale, zero, coefficients),
    ]
    sizes = (
        *(tokens, x.shape[-1], 0 if matrix is None else matrix.shape[-1], rank),
        *(1 if f is None else f.shape[0] for f in (left, right)),
        *(shared, max(states, 1)),
    )
    options = (int(half), bits, int(symmetric), -1.0 if eps is None else eps)
    failure = call("starquant_site", *used, *sizes, *options)
    if failure == NOT_FINITE:
        raise not_finite(WHERE)
    if failure:
        raise unknown_state("a site cannot quantize its input", WHERE, states, "another state")
    return codes, scale, zero, coefficients


def covers(
    structure: str, factors: Sequence[Tensor], directions: Tensor | None, matrix: Tensor | None
) -> bool:
    """Whether the kernel of a site has these transforms."""
    return (
        (not factors or (structure in ("kronecker", "hadamard") and factors[-1].shape[0] <= 128))
        and (directions is None or directions.shape[-1] <= RANK)
        and (matrix is None or matrix.shape[-1] <= 16)
    )


def _branch(directions: Tensor) -> tuple[Tensor, Tensor]:
    """Directions [S, d, k] in bfloat16: [S, d / 2, 16, 2] for coefficients, negative [S, 8, d, 2] to take them off."""
    wide = padded(directions, RANK).to(torch.bfloat16)
    down = padded(wide.mT, 2).unflatten(2, (-1, 2)).transpose(1, 2).contiguous()
    return down, branch_image(-wide.mT)


def _site_codes_fake(
    x: Tensor, state: Tensor | None, tables: Sequence[Tensor | None], rank: int, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    row = (*x.shape[:-1], 1)
    return (
        x.new_empty(x.shape, dtype=torch.uint8),
        x.new_empty(row, dtype=torch.float32),
        x.new_empty(row, dtype=torch.float32),
        x.new_empty((*x.shape[:-1], rank), dtype=torch.bfloat16),
    )


torch.library.custom_op(
    "starquant::site_codes",
    site_codes,
    mutates_args=(),
    schema="(Tensor x, Tensor? state, Tensor?[] tables, int rank, int shared, int bits, bool symmetric, "
    "Tensor? other=None, float? eps=None) -> (Tensor codes, Tensor scale, Tensor zero, Tensor coefficients)",
).register_fake(_site_codes_fake)
