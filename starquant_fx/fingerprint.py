"""A cheap fingerprint that tells one set of weights from another."""

from __future__ import annotations

import hashlib

from torch import Tensor

SAMPLED = 1024
"""Values of each parameter, from its start, that go into the fingerprint."""


def fingerprint(parameters: dict[str, Tensor]) -> str:
    """SHA-256 over names, shapes and the first values of a model's parameters.

    Args:
        parameters: Tensors by qualified name.

    Returns:
        Hexadecimal digest; two models that differ in one layer differ in it with near certainty.
    """
    digest = hashlib.sha256()
    for name in sorted(parameters):
        tensor = parameters[name].detach()
        digest.update(f"{name}{list(tensor.shape)}".encode())
        digest.update(tensor.flatten()[:SAMPLED].float().cpu().numpy().tobytes())
    return digest.hexdigest()
