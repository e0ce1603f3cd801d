"""How weight codes lie in memory for the Triton kernels: one layout for every architecture."""

from __future__ import annotations

import torch
from torch import Tensor

from starquant_fx.kernels.triton.sizes import divided

BLOCK = 128
"""Channels of a block; K is padded with zeros to a multiple of it."""
HALF = BLOCK // 2
"""In a block of codes of up to four bits, byte j holds channel j (low nibble) and channel j + HALF (high nibble)."""


def blocks(features: int) -> int:
    """Number of blocks that ``features`` channels take."""
    return divided(features, BLOCK)


def row_bytes(features: int, bits: int) -> int:
    """Bytes of a packed row of ``features`` channels."""
    return blocks(features) * (HALF if bits <= 4 else BLOCK)


def grouping(weight_scale: Tensor, features: int) -> tuple[int, int]:
    """Groups of channels that a weight has scales for, and blocks of each: 1 and 0 for scales [rows] of whole rows."""
    if weight_scale.dim() != 2:
        return 1, 0
    groups = weight_scale.shape[1]
    return groups, blocks(features) // groups


def tile_pack(codes: Tensor, bits: int) -> Tensor:
    """Packs weight codes as the Triton kernels read them.

    Args:
        codes: int8 [n, d].
        bits: 2..8. Up to four bits: a nibble a channel, in two's complement, see ``HALF``. More: a byte a channel.

    Returns:
        uint8 [n, ceil(d / 128) * 64], or [n, ceil(d / 128) * 128] for more than four bits.
    """
    missing = blocks(codes.shape[1]) * BLOCK - codes.shape[1]
    laid = torch.nn.functional.pad(codes, (0, missing)).contiguous().view(torch.uint8)
    if bits > 4:
        return laid
    pairs = laid.unflatten(1, (-1, 2, HALF))
    return (pairs[:, :, 0] & 0xF | pairs[:, :, 1] << 4).flatten(1)


def tile_unpack(packed: Tensor, bits: int, features: int) -> Tensor:
    """Undoes ``tile_pack``: int8 codes [n, features]."""
    if bits > 4:
        return packed[:, :features].contiguous().view(torch.int8)
    laid = packed.unflatten(1, (-1, 1, HALF))
    both = torch.cat([laid << 4, laid & 0xF0], 2).flatten(1)[:, :features]
    return both.contiguous().view(torch.int8) >> 4
