"""A fingerprint that tells one set of weights from another."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from starquant_fx.mapped import pieces


def fingerprint(parameters: dict[str, Tensor]) -> str:
    """BLAKE2b over names, dtypes, shapes and all values of a model's parameters.

    Args:
        parameters: Tensors by qualified name.

    Returns:
        Hexadecimal digest.
    """
    digest = hashlib.blake2b(digest_size=32)
    for name in sorted(parameters):
        tensor = parameters[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        for piece in pieces(tensor):
            digest.update(piece.cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()
