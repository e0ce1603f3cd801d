"""The executable specification of every ``starquant::`` operator, in plain PyTorch.

Written to be read and to be compared against, not to be fast. Shapes: ``T`` tokens or ``[B, L]`` (written ``...``),
``d`` input channels, ``n`` output channels, ``S`` token states, ``g`` block size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Rounding = Callable[[Tensor], Tensor]
"""``torch.round``, or a version of it with a gradient."""
EXACT_FLOAT32 = 2**24
"""Integers of a smaller magnitude, and their sums, are exact in float32."""
PANEL, GROUP = 64, 8
"""Outputs of a panel of packed weight codes, and what its channels are padded to a multiple of."""


def token_state(input_ids: Tensor, mask_token_id: int) -> Tensor:
    """State of every token: 1 = masked, 0 = unmasked (int64, shape of ``input_ids``)."""
    return (input_ids == mask_token_id).long()


def ratio_state(state: Tensor, keep: Tensor | None, edges: Sequence[float]) -> Tensor:
    """Token state refined by the bucket of its sequence's mask ratio.

    Args:
        state: [B, L], 1 = masked.
        keep: None, a [B, L] padding mask, or a [B, 1, L or 1, L] attention mask whose fully hidden columns are padding.
        edges: Ascending inner edges of the buckets, in (0, 1).

    Returns:
        [B, L] int64: ``state + 2 * bucket``.
    """
    if keep is None:
        kept = torch.ones_like(state)
    else:
        seen = keep != 0 if keep.dim() == 2 else (keep if keep.dtype == torch.bool else keep > -1e4)
        kept = (seen if keep.dim() == 2 else seen.flatten(1, 2).any(1)).expand_as(state).long()
    masked = (state * kept).sum(-1, keepdim=True).float()  # not in torch's default dtype
    ratio = masked / kept.sum(-1, keepdim=True).clamp(min=1)
    bucket = torch.zeros_like(state[:, :1])
    for edge in edges:
        bucket = bucket + (ratio >= edge).long()
    return state + 2 * bucket


def partition(x: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gathers tokens of one state into one contiguous range (paper, section 3.2).

    Args:
        x: [..., d].
        state: [...].

    Returns:
        Tokens [T, d] sorted by state (stable), their states [T], and the order [T] (flat index each came from).
    """
    states, order = torch.sort(state.flatten(), stable=True)
    return x.flatten(0, -2)[order], states, order


def scatter(y: Tensor, order: Tensor, like: Tensor) -> Tensor:
    """Undoes ``partition``: [T, n] back to token order, in the leading shape of ``like`` [...]."""
    out = torch.empty_like(y)
    out[order] = y
    return out.unflatten(0, like.shape) if like.dim() > 1 else out


def center(x: Tensor, state: Tensor, means: Tensor) -> Tensor:
    """Subtracts the mean of the token's state: ``x - means[state]``; means [S, d]."""
    return x - means.to(x.dtype)[state]


def rotate(x: Tensor, factors: Sequence[Tensor], structure: str) -> Tensor:
    """Multiplies the last dimension by the basis Q: ``x Q``.

    Args:
        x: [..., d].
        factors: dense: [d, d]. kronecker: [a, a] and [b, b], d = a * b, Q = Q1 (x) Q2. block: [d / g, g, g].
            hadamard: signs [d], then the two Kronecker factors.
        structure: One of these names.

    Returns:
        [..., d], in the dtype of ``x``.

    Raises:
        ValueError: Unknown structure.
    """
    parts = [f.to(x.dtype) for f in factors]
    if structure == "dense":
        return x @ parts[0]
    if structure == "hadamard":
        x, parts = x * parts[0], parts[1:]
    if structure in ("kronecker", "hadamard"):
        left, right = parts
        # A matrix on the right of many rows is one large product; on the left it would be many small ones.
        rows = x.unflatten(-1, (left.shape[0], right.shape[0])) @ right
        return (rows.mT @ left).mT.flatten(-2)
    if structure == "block":
        blocks = x.unflatten(-1, (parts[0].shape[0], parts[0].shape[1]))
        return torch.einsum("...bi,bij->...bj", blocks, parts[0]).flatten(-2)
    raise ValueError(f"unknown structure {structure!r}")


def gate(x: Tensor, state: Tensor, shared: int, bounds: Sequence[int]) -> Tensor:
    """Keeps the shared coordinates and those of the token's state, zeroes the other states' (paper, eq. 11).

    Args:
        x: [..., d], transformed.
        state: [...] values in 0..S-1.
        shared: Coordinates [0, shared) belong to every state.
        bounds: 2 S integers: state z keeps [bounds[2 z], bounds[2 z + 1]) as well.

    Returns:
        [..., d].
    """
    return x * gate_table(x.shape[-1], shared, bounds, x.device).to(x.dtype)[state]


def gate_table(
    features: int, shared: int, bounds: Sequence[int], device: torch.device | None = None
) -> Tensor:
    """The gates as a bool table [S, d]."""
    column = torch.arange(features, device=device)
    rows = [
        (column < shared) | ((column >= lo) & (column < hi))
        for lo, hi in zip(bounds[::2], bounds[1::2], strict=True)
    ]
    return torch.stack(rows)


def compensate(x: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
    """TAC: block-diagonal affine map ``y_b = M_b x_b + b_b`` (paper, eq. 17).

    Args:
        x: [..., d].
        matrix: [d / g, g, g].
        bias: [d].

    Returns:
        [..., d].
    """
    blocks = x.unflatten(-1, (matrix.shape[0], matrix.shape[1]))
    return torch.einsum("...bi,bji->...bj", blocks, matrix.to(x.dtype)).flatten(-2) + bias.to(
        x.dtype
    )


def compensate_by_state(
    x: Tensor, state: Tensor, index: Sequence[int], matrix: Tensor, bias: Tensor
) -> Tensor:
    """TAC with a map of its own for groups of token states.

    Args:
        x: [..., d].
        state: [...] values in 0..S-1.
        index: S integers: which of the m maps each state takes.
        matrix: [m, d / g, g, g].
        bias: [m, d].

    Returns:
        [..., d].
    """
    chosen = torch.tensor(index, device=x.device)[state].unsqueeze(-1)
    out = torch.zeros_like(x)
    for i in range(matrix.shape[0]):
        out = torch.where(chosen == i, compensate(x, matrix[i], bias[i]), out)
    return out


def activation_range(x: Tensor, symmetric: bool, clip: Tensor | None) -> tuple[Tensor, Tensor]:
    """Per-token (low, high) [..., 1] in float32; zero is always inside; clip [2] scales low and high."""
    wide = x.float()
    low, high = wide.amin(-1, keepdim=True).clamp(max=0), wide.amax(-1, keepdim=True).clamp(min=0)
    if clip is not None:
        low, high = low * clip[0], high * clip[1]
    if symmetric:
        high = torch.maximum(-low, high)
        low = -high
    return low, high


def activation_grid(
    low: Tensor, high: Tensor, bits: int, symmetric: bool, rounding: Rounding = torch.round
) -> tuple[Tensor, Tensor]:
    """Scale and zero point (both float32 [..., 1]) of the grid 0 .. 2^bits - 1 over [low, high]."""
    levels = 2**bits - 1
    if symmetric:
        half = 2 ** (bits - 1)
        scale = (high / max(half - 1, 1)).clamp(min=torch.finfo(torch.float32).tiny)
        return scale, torch.full_like(scale, half)
    scale = ((high - low) / levels).clamp(min=torch.finfo(torch.float32).tiny)
    return scale, rounding(-low / scale).clamp(0, levels)


def quantize_activation(
    x: Tensor, bits: int, symmetric: bool, clip: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Quantizes each token on its own.

    Args:
        x: [..., d] float.
        bits: 2..8.
        symmetric: Zero point in the middle of the grid instead of from the token's minimum.
        clip: Factors [2] in (0, 1] of the minimum and maximum, or None.

    Returns:
        Codes uint8 [..., d], scale float32 [..., 1], zero point float32 [..., 1] (an integer); x ~ (code - zero) scale.
    """
    scale, zero = activation_grid(*activation_range(x, symmetric, clip), bits, symmetric)
    codes = torch.round(x.float() / scale + zero).clamp(0, 2**bits - 1)
    return codes.to(torch.uint8), scale, zero


def dequantize_activation(codes: Tensor, scale: Tensor, zero: Tensor, dtype: torch.dtype) -> Tensor:
    """``(codes - zero) * scale`` in ``dtype``."""
    return ((codes.float() - zero) * scale).to(dtype)


def weight_scale(w: Tensor, bits: int, clip: Tensor | None) -> Tensor:
    """Symmetric per-output-channel scale [n] of a weight [n, d]; clip [n] in (0, 1] or None."""
    peak = w.float().abs().amax(-1)
    if clip is not None:
        peak = peak * clip
    return (peak / (2 ** (bits - 1) - 1)).clamp(min=torch.finfo(torch.float32).tiny)


def quantize_weight(w: Tensor, bits: int, clip: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rounds a weight [n, d] to the nearest code: codes int8 [n, d] and scale float32 [n]."""
    scale = weight_scale(w, bits, clip)
    half = 2 ** (bits - 1)
    return torch.round(w.float() / scale[:, None]).clamp(-half, half - 1).to(torch.int8), scale


def pack(codes: Tensor, bits: int) -> Tensor:
    """Packs int8 codes [n, d] in panels of 64 outputs, as products read them: uint8 [ceil(n / 64), bytes].

    A panel is [d / 4][output][4 channels], padded with zeros. Codes of up to four bits are stored plus eight, two such
    groups of channels a byte, the first one low; wider ones take a byte each.
    """
    outputs, channels = (
        -size % step for size, step in zip(codes.shape, (PANEL, GROUP), strict=True)
    )
    wide = torch.nn.functional.pad(codes.to(torch.int16), (0, channels, 0, outputs))
    laid = wide.unflatten(0, (-1, PANEL)).unflatten(2, (-1, 4)).transpose(1, 2)
    if bits <= 4:
        laid = laid[:, ::2] + 8 | laid[:, 1::2] + 8 << 4
    return (laid & 0xFF).to(torch.uint8).flatten(1).contiguous()


def unpack(packed: Tensor, bits: int, outputs: int, features: int) -> Tensor:
    """Undoes ``pack``: int8 codes [outputs, features]."""
    laid = packed.unflatten(1, (-1, PANEL, 4))
    if bits <= 4:
        laid = torch.stack([laid & 0xF, laid >> 4], 2).flatten(1, 2).to(torch.int8) - 8
    codes = laid.transpose(1, 2).flatten(2).flatten(0, 1)[:outputs, :features]
    return codes.contiguous().view(torch.int8)


def dequantize_weight(
    packed: Tensor, scale: Tensor, bits: int, features: int, dtype: torch.dtype
) -> Tensor:
    """Packed codes back to a weight [n, features] in ``dtype``."""
    codes = unpack(packed, bits, scale.shape[0], features)
    return (codes.float() * scale[:, None]).to(dtype)


def add_state_bias(y: Tensor, state: Tensor, bias: Tensor) -> Tensor:
    """Adds the bias row of the token's state: ``y + bias[state]``; y [..., n], bias [S, n]."""
    return y + bias.to(y.dtype)[state]


def split_low_rank(x: Tensor, state: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Splits off the part of each token in its state's directions.

    Args:
        x: [..., d].
        state: [...].
        directions: U [S, d, k], orthonormal columns.

    Returns:
        ``x - x U_z U_z^T`` [..., d] and ``x U_z`` [..., k].
    """
    u = directions.to(x.dtype)
    by_state = torch.einsum("...d,sdk->...sk", x, u)
    own = torch.nn.functional.one_hot(state, u.shape[0]).to(x.dtype).unsqueeze(-1) * by_state
    return x - torch.einsum("...sk,sdk->...d", own, u), own.sum(-2)


def add_low_rank(y: Tensor, state: Tensor, coefficients: Tensor, image: Tensor) -> Tensor:
    """Adds the bypassed part's output: ``y + c (U_z^T W^T)``; coefficients [..., k], image [S, k, n]."""
    hot = torch.nn.functional.one_hot(state, image.shape[0]).to(y.dtype)
    spread = hot.unsqueeze(-1) * coefficients.to(y.dtype).unsqueeze(-2)
    return y + spread.flatten(-2) @ image.to(y.dtype).flatten(0, 1)


def integer_matmul(codes: Tensor, weight: Tensor, magnitude: int) -> Tensor:
    """Exact integer product ``codes @ weight.T``.

    Args:
        codes: [..., d] uint8.
        weight: [n, d] int8.
        magnitude: Bound of |code * weight|.

    Returns:
        [..., n] float64 or float32 that holds the exact integers.
    """
    dtype = torch.float32 if magnitude * codes.shape[-1] < EXACT_FLOAT32 else torch.float64
    return codes.to(dtype) @ weight.to(dtype).T


def sum_of_groups(
    codes: Tensor, zero: Tensor, weight: Tensor, weight_scale: Tensor, column_sum: Tensor
) -> Tensor:
    """``sum over groups of (codes @ W - zero * column_sum) * weight_scale``: float32 [..., n].

    Args:
        codes: [..., d] integers.
        zero: float32 [..., 1].
        weight: Codes int8 [n, d].
        weight_scale: float32 [n, groups]; a group is d / groups neighbouring channels.
        column_sum: Sum of a group's weight codes, int32 [n, groups].
    """
    groups = weight_scale.shape[1]
    left = codes.double().unflatten(-1, (groups, -1))
    right = weight.double().unflatten(-1, (groups, -1))
    totals = torch.einsum("...gk,ngk->...ng", left, right)
    totals = totals - zero.double().unsqueeze(-1) * column_sum.double()
    return (totals.float() * weight_scale).sum(-1)


def quantized_linear(
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
) -> Tensor:
    """Integer matmul with the whole epilogue: scales, zero-point correction, bias, bias of the state.

    ``y = (codes @ W - zero * column_sum) * scale * weight_scale + bias + state_bias[state]``

    With scales of groups of channels, the product with its zero-point correction is each group's own, and what they
    give, times their scales, is added up in float32.

    Args:
        codes: Activation codes uint8 [..., d].
        scale: float32 [..., 1].
        zero: float32 [..., 1].
        packed: Packed weight codes of ``weight_bits``.
        weight_scale: float32 [n], or [n, groups] for groups of d / groups neighbouring channels.
        column_sum: Sum of the weight codes per output channel (and group), int32, the shape of ``weight_scale``.
        weight_bits: 2..8.
        bias: [n] or None.
        state: [...] or None.
        state_bias: [S, n] or None.
        dtype: Dtype of the result.

    Returns:
        [..., n].
    """
    weight = unpack(packed, weight_bits, weight_scale.shape[0], codes.shape[-1])
    if weight_scale.dim() == 2:
        y = sum_of_groups(codes, zero, weight, weight_scale, column_sum) * scale
    else:
        total = integer_matmul(codes, weight, 255 * 2 ** (weight_bits - 1))
        total = total - zero.to(total.dtype) * column_sum.to(total.dtype)
        y = total.float() * scale * weight_scale
    if bias is not None:
        y = y + bias.float()
    if state is not None and state_bias is not None:
        y = y + state_bias.float()[state]
    return y.to(dtype)


def transform_quantize(
    x: Tensor,
    state: Tensor | None,
    means: Tensor | None,
    factors: Sequence[Tensor],
    structure: str,
    shared: int,
    bounds: Sequence[int],
    matrix: Tensor | None,
    offset: Tensor | None,
    bits: int,
    symmetric: bool,
    clip: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The whole activation side of a site: TAC, centring, basis, gates, per-token quantizer.

    Args:
        x: [..., d].
        state: [...]; None = neither centring nor gates.
        means: [S, d] or None.
        factors: Factors of the basis; empty = no basis.
        structure: See ``rotate``.
        shared: See ``gate``.
        bounds: See ``gate``; empty = no gates.
        matrix: TAC's [d / g, g, g] or None.
        offset: TAC's [d] or None.
        bits: 2..8.
        symmetric: See ``quantize_activation``.
        clip: [2] or None.

    Returns:
        As ``quantize_activation``.
    """
    if matrix is not None and offset is not None:
        x = compensate(x, matrix, offset)
    if means is not None and state is not None:
        x = center(x, state, means)
    if factors:
        x = rotate(x, factors, structure)
    if bounds and state is not None:
        x = gate(x, state, shared, bounds)
    return quantize_activation(x, bits, symmetric, clip)


def greedy(logits: Tensor, by_probability: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The most probable token of every row, as samplers take it at temperature 0.

    Args:
        logits: [R, vocab].
        by_probability: Among tokens whose probabilities are equal once rounded to their type, take the first; else the
            first among those of the largest logit.

    Returns:
        The largest logit of a row [R], NaN if one is; the token [R] int64; and its probability [R], by a softmax in
        the type of the logits.
    """
    largest, tokens = logits.max(-1)  # as argmax, which is slow in bfloat16
    probabilities = logits.softmax(-1)
    if by_probability:
        probability, tokens = probabilities.max(-1)
    else:
        probability = probabilities.gather(-1, tokens[:, None]).squeeze(-1)
    return largest, tokens, probability
