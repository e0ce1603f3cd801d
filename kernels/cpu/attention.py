"""Bidirectional attention with grouped-query heads, and the rotary embedding before it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from starquant_fx.errors import InputError
from starquant_fx.kernels.cpu.checks import described
from starquant_fx.kernels.cpu.library import call

LOG2E = math.log2(math.e)
"""The kernel takes powers of two."""


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """``softmax(q k^T * scale + mask) v``: products in bfloat16, summed in float32, and a softmax in float32.

    Args:
        q: bfloat16 [B, H, L, D]; any strides, read in place where channels are adjacent.
        k: bfloat16 [B, H_kv, M, D], H_kv divides H.
        v: As ``k``.
        mask: bool (True = may attend) or float (added to the scores), broadcastable to [B, H, L, M], or None.
        scale: Positive; None = 1 / sqrt(D).

    Returns:
        bfloat16 [B, H, L, D], in memory as [B, L, H, D]. A query that may attend to nothing gets zeros, as by torch.

    Raises:
        InputError: Another type, or shapes that do not fit.
    """
    _check(q, k, v, mask, scale)
    batch, heads, queries, channels = q.shape
    views = [value for x in (q, k, v) for value in _view(x)]
    added = None if mask is None else _added(mask, (batch, heads, queries, k.shape[2]))
    mask_view = (None, 0, 0, 0) if added is None else _view(added)
    factor = LOG2E * (channels**-0.5 if scale is None else scale)
    factors = torch.tensor([factor], dtype=torch.float32, device="cpu")
    out = torch.empty(batch, queries, heads, channels, dtype=q.dtype, device="cpu")
    sizes = (batch, heads, k.shape[1], queries, k.shape[2], channels)
    call("starquant_attention", *views, *mask_view, factors, out, *sizes)
    return out.transpose(1, 2)


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The half-split rotary embedding in float32, bit for bit as ``models.layers.apply_rotary``.

    Args:
        x: bfloat16 or float32 [B, H, L, D], D even.
        cos: float32 [B or 1, 1, L, D].
        sin: float32, of the shape of ``cos``.

    Returns:
        As ``x``, in memory as [B, L, H, D].

    Raises:
        InputError: Another type, or shapes that do not fit.
    """
    batch, heads, rows, channels = x.shape if x.dim() == 4 else (0, 0, 0, 1)
    fits = (
        (x.dtype in (torch.bfloat16, torch.float32) and channels % 2 == 0 and x.is_cpu)
        and cos.dtype == sin.dtype == torch.float32
        and cos.shape == sin.shape
        and cos.shape in ((1, 1, rows, channels), (batch, 1, rows, channels))
    )
    if not fits:
        raise InputError(
            "the rotary embedding has no kernel for these tensors",
            where="starquant::rotary",
            expected="x [B, H, L, D] on the CPU, bfloat16 or float32, D even; cos and sin float32 [B or 1, 1, L, D]",
            got=", ".join(described(t) for t in (x, cos, sin)),
            hint="compute it by torch",
        )
    out = torch.empty(batch, rows, heads, channels, dtype=x.dtype, device="cpu")
    step = 0 if cos.shape[0] == 1 else rows * channels
    sizes = (step, batch, heads, rows, channels, int(x.dtype == torch.bfloat16))
    call("starquant_rotary", *_view(x), cos.contiguous(), sin.contiguous(), out, *sizes)
    return out.transpose(1, 2)


def _view(x: Tensor) -> tuple[Tensor, int, int, int]:
    """A tensor whose last dimension is adjacent in memory, and its other strides."""
    adjacent = x if x.stride(-1) == 1 else x.contiguous()
    batch, head, row, _ = adjacent.stride()
    return adjacent, batch, head, row


def _added(mask: Tensor, size: tuple[int, ...]) -> Tensor:
    """The mask as the kernel adds it, in units of log 2; only its own elements take memory, and whole rows of keys."""
    wide = mask.expand(size)
    own = wide[tuple(slice(1 if step == 0 else None) for step in wide.stride()[:3])]
    if own.dtype == torch.bool:
        kept = torch.zeros(own.shape, dtype=torch.float32, device="cpu")
        own = kept.masked_fill(~own, -torch.inf)
    else:
        # The least finite value, which the published code masks by, has to stay finite.
        bound = torch.finfo(torch.float32).max
        own = own.float()
        own = torch.where(own.isinf(), own, (own * LOG2E).clamp(-bound, bound))
    return own.contiguous().expand(size)


def _check(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> None:
    """Refuses what the kernel would read wrongly."""
    fits = (
        all(t.dim() == 4 and t.dtype == torch.bfloat16 and t.is_cpu for t in (q, k, v))
        and k.shape == v.shape
        and (q.shape[0], q.shape[3]) == (k.shape[0], k.shape[3])
        and min(q.shape[1], k.shape[1], q.shape[3]) > 0
        and q.shape[1] % k.shape[1] == 0
        and (scale is None or 0 < scale < math.inf)
    )
    if fits and mask is not None:
        size = (*q.shape[:3], k.shape[2])
        fits = (mask.dtype == torch.bool or mask.is_floating_point()) and mask.dim() in (2, 3, 4)
        pairs = zip(reversed(mask.shape), reversed(size), strict=False)
        fits = fits and all(own in (1, whole) for own, whole in pairs)
    if not fits:
        tensors = (q, k, v) if mask is None else (q, k, v, mask)
        raise InputError(
            "attention has no kernel for these tensors",
            where="starquant::attention",
            expected="q [B, H, L, D], k and v [B, H_kv, M, D] in bfloat16 on the CPU, H_kv dividing H; a bool or float "
            "mask that broadcasts to [B, H, L, M]; a positive scale",
            got=", ".join(described(t) for t in tensors) + f", scale {scale}",
            hint="call torch's scaled_dot_product_attention",
        )


def _attention_fake(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None
) -> Tensor:
    return torch.empty_like(q.transpose(1, 2), memory_format=torch.contiguous_format).transpose(
        1, 2
    )


def _rotary_fake(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return _attention_fake(x, x, x, None, None)


torch.library.custom_op(
    "starquant::attention",
    attention,
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor? mask, float? scale) -> Tensor",
).register_fake(_attention_fake)
torch.library.custom_op(
    "starquant::rotary",
    rotary,
    mutates_args=(),
    schema="(Tensor x, Tensor cos, Tensor sin) -> Tensor",
).register_fake(_rotary_fake)
