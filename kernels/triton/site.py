"""``starquant::tile_site``: norm, shift of the state, basis, gates and per-token quantizer of a site on a GPU."""

# A kernel is not the Python that a type checker takes it for: a launch takes options besides its arguments.
# pyright: reportCallIssue=false

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from starquant_fx.errors import LoweringError
from starquant_fx.kernels.triton.launch import architecture, on_its_device, require_device
from starquant_fx.kernels.triton.row_kernels import (
    block_kernel,
    enter_kernel,
    gate_kernel,
    squares_kernel,
)
from starquant_fx.kernels.triton.site_checks import check_site
from starquant_fx.kernels.triton.site_kernels import kronecker_kernel
from starquant_fx.kernels.triton.sizes import (
    PIECE,
    block_rows,
    divided,
    padded,
    plan,
    power_of_two,
    tokens_each,
    warps,
)

WHERE = "starquant::tile_site"
WIDEST_FACTOR = 256
"""Largest Kronecker factor, padded, and largest block, that a kernel takes."""


@on_its_device
def tile_site(
    x: Tensor,
    eps: float | None,
    state: Tensor | None,
    shift: Tensor | None,
    factors: Sequence[Tensor],
    structure: str,
    shared: int,
    bounds: Sequence[int],
    bits: int,
    symmetric: bool,
    clip: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What a site does to its input, in one pass for Kronecker and Hadamard bases and for none.

    In real arithmetic ``quantize(gate((norm(x) + shift[state]) Q))``. Products are summed in float32 and rounded to the
    dtype of ``x`` between the two factors of a Kronecker basis; values that are quantized are float32.

    Args:
        x: [..., d] bfloat16, float16 or float32.
        eps: Norm ``x * rsqrt(mean(x^2) + eps)`` first; without ``shift`` only the scale carries it. None: no norm.
        state: [...] int64; None where there are neither shift nor gates. A state that ``shift`` does not have makes the
            scale NaN.
        shift: [S, d] float32 to add, or None.
        factors: See ``reference.rotate``; empty = no basis.
        structure: See ``reference.rotate``. ``dense`` is a plain matrix product before the kernel.
        shared: See ``reference.gate``.
        bounds: See ``reference.gate``, two of each state; empty = no gates.
        bits: 2..8.
        symmetric: See ``reference.quantize_activation``.
        clip: [2] or None.

    Returns:
        Codes int8 [..., d]: those of ``reference.quantize_activation``, at 8 bits less 128; scale and zero point
        (at 8 bits less 128) float32 [..., 1]. NaN or Inf in a token makes its scale NaN.

    Raises:
        InputError: Tensors do not fit each other.
        LoweringError: No kernel can run on this device, or has this basis.
    """
    require_device(x, WHERE)
    check_site(WHERE, x, state, shift, factors, structure, shared, bounds, bits, clip)
    x = x.contiguous()
    row = (*x.shape[:-1], 1)
    codes = torch.empty(x.shape, dtype=torch.int8, device=x.device)
    scale, zero = (torch.empty(row, dtype=torch.float32, device=x.device) for _ in range(2))
    d, tokens = x.shape[-1], scale.numel()
    if not tokens:
        return codes, scale, zero
    if shift is None and not bounds:
        state = None
    state, shift = (None if t is None else t.contiguous() for t in (state, shift))
    states = 0 if shift is None else shift.shape[0]
    tail = (states, shared, tuple(bounds), bits, symmetric)
    results = (clip, codes, scale, zero)
    if factors and structure in ("kronecker", "hadamard"):
        left, right = (f.contiguous() for f in factors[-2:])
        signs = factors[0].contiguous() if len(factors) == 3 else None
        a, b = left.shape[0], right.shape[0]
        _require_size(max(a, b), structure)
        added = shift is not None or signs is not None
        form = plan(a, b, architecture(x.device), eps is not None, added)
        if form.entered:
            x = _entered(x, eps, state, shift, signs)
            eps = shift = signs = None
        each = tokens_each(tokens, x.device)
        kronecker_kernel[(divided(tokens, each),)](
            *(x, state, shift, signs, left, right, *results, tokens, eps or 0.0),
            *(eps is not None, *tail, a, b, form.rows, form.first, form.second, each, form.stay),
            num_warps=form.warps,
            num_stages=form.stages,
        )
        return codes, scale, zero
    if factors:
        x = _turned(x, eps, state, shift, factors[0].contiguous(), structure)
        eps = shift = None
    piece = min(PIECE, power_of_two(d))
    gate_kernel[(tokens,)](
        *(x, state, shift, *results, eps or 0.0, eps is not None, *tail, d, piece),
        num_warps=warps(piece),
    )
    return codes, scale, zero


def _entered(
    x: Tensor, eps: float | None, state: Tensor | None, shift: Tensor | None, signs: Tensor | None
) -> Tensor:
    """The norm, the shift and the signs, in the dtype of ``x``."""
    out, d = torch.empty_like(x), x.shape[-1]
    piece = min(PIECE, power_of_two(d))
    states = 0 if shift is None else shift.shape[0]
    enter_kernel[(x.shape[:-1].numel(),)](
        *(x, state, shift, signs, out, eps or 0.0, eps is not None, states, d, piece),
        num_warps=warps(piece),
    )
    return out


def _turned(
    x: Tensor,
    eps: float | None,
    state: Tensor | None,
    shift: Tensor | None,
    factor: Tensor,
    structure: str,
) -> Tensor:
    """The norm, the shift and a dense or block-diagonal basis, in the dtype of ``x``."""
    d, tokens = x.shape[-1], x.shape[:-1].numel()
    if structure == "dense":
        if eps is not None or shift is not None:
            x = _entered(x, eps, state, shift, None)
        return x @ factor.to(x.dtype)
    if structure != "block":
        raise _no_kernel(structure)
    size = factor.shape[-1]
    _require_size(size, structure)
    squares = None
    if eps is not None:
        squares = torch.empty(tokens, dtype=torch.float32, device=x.device)
        piece = min(PIECE, power_of_two(d))
        squares_kernel[(tokens,)](x, squares, d, piece, num_warps=warps(piece))
    out = torch.empty_like(x)
    rows = min(block_rows(x.dtype), padded(tokens))
    states = 0 if shift is None else shift.shape[0]
    block_kernel[(divided(tokens, rows), d // size)](
        *(x, state, shift, squares, factor, out, tokens, eps or 0.0, states, d, size),
        *(rows, padded(size)),
        num_warps=4,
    )
    return out


def _require_size(size: int, structure: str) -> None:
    if padded(size) > WIDEST_FACTOR:
        raise _no_kernel(f"{structure} with a factor of {size}")


def _no_kernel(got: str) -> LoweringError:
    return LoweringError(
        "a site's basis has no kernel in the triton target",
        where=WHERE,
        expected=f"kronecker, hadamard or block with factors up to {WIDEST_FACTOR}, or dense",
        got=got,
        hint="choose another structure of the basis",
    )


def _tile_site_fake(x: Tensor, *rest: object) -> tuple[Tensor, Tensor, Tensor]:
    row = (*x.shape[:-1], 1)
    return (
        x.new_empty(x.shape, dtype=torch.int8),
        x.new_empty(row, dtype=torch.float32),
        x.new_empty(row, dtype=torch.float32),
    )


torch.library.custom_op(
    "starquant::tile_site",
    tile_site,
    mutates_args=(),
    schema="(Tensor x, float? eps, Tensor? state, Tensor? shift, Tensor[] factors, str structure, int shared, "
    "int[] bounds, int bits, bool symmetric, Tensor? clip) -> (Tensor codes, Tensor scale, Tensor zero)",
).register_fake(_tile_site_fake)
