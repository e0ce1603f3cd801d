"""Hadamard matrices: entries +1 and -1 where a construction is known, a flat orthogonal matrix otherwise."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor


def hadamard(size: int) -> Tensor:
    """An orthogonal matrix whose entries are as equal as we can make them.

    Sylvester's doubling of a core: 1, or one of Paley's two constructions (1933) from a prime q: order q + 1 for
    q = 3 mod 4, order 2 (q + 1) for q = 1 mod 4. That covers 12, 20, 28, 36, 44, 60, 68, 148 and their doublings, among
    them the widths of the published models. Where no core of this kind divides the size (odd sizes among them), the odd
    part is an orthogonal Hartley matrix, which is real, symmetric and has no zero entries.

    Args:
        size: k >= 1.

    Returns:
        [k, k] float32; has entries +-1/sqrt(k) exactly where ``core_order`` finds a core.
    """
    core = core_order(size)
    if core is None:
        odd = size // (size & -size)
        angle = 2 * math.pi * torch.outer(torch.arange(odd), torch.arange(odd)).double() / odd
        matrix = (angle.cos() + angle.sin()) / math.sqrt(odd)
        doublings = size // odd
    else:
        matrix = torch.ones(1, 1, dtype=torch.float64) if core == 1 else _paley(core)
        matrix = matrix / math.sqrt(core)
        doublings = size // core
    while doublings > 1:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
        matrix = matrix / math.sqrt(2)
        doublings //= 2
    return matrix.float()


@functools.cache
def core_order(size: int) -> int | None:
    """Order of the Paley core (1 for powers of two) of which ``size`` is a doubling; None if there is none."""
    odd = size // (size & -size)
    if odd == 1:
        return 1
    order = 4 * odd
    while size % order == 0:
        if _is_prime(order - 1) or ((order // 2) % 4 == 2 and _is_prime(order // 2 - 1)):
            return order
        order *= 2
    return None


def _is_prime(number: int) -> bool:
    import sympy  # slow to import, and powers of two need none of it

    return bool(sympy.isprime(number))


def _paley(order: int) -> Tensor:
    """A Hadamard matrix with entries +-1 of an order that ``core_order`` returned (float64)."""
    if _is_prime(order - 1):
        conference = _bordered(_jacobsthal(order - 1), -1)
        return torch.eye(order, dtype=torch.float64) + conference
    conference = _bordered(_jacobsthal(order // 2 - 1), 1)
    identity = torch.eye(order // 2, dtype=torch.float64)
    top = torch.cat([conference + identity, conference - identity], 1)
    return torch.cat([top, torch.cat([conference - identity, -conference - identity], 1)])


def _jacobsthal(prime: int) -> Tensor:
    """Q[i, j] = chi(i - j), the quadratic character modulo a prime (float64)."""
    character = torch.full((prime,), -1.0, dtype=torch.float64)
    character[torch.arange(prime) ** 2 % prime] = 1.0
    character[0] = 0.0
    index = torch.arange(prime)
    return character[(index[:, None] - index) % prime]


def _bordered(core: Tensor, sign: int) -> Tensor:
    """The conference matrix with a first row of ones and a first column of ``sign``."""
    size = core.shape[0]
    top = torch.cat([torch.zeros(1, 1), torch.ones(1, size)], 1).double()
    return torch.cat([top, torch.cat([sign * torch.ones(size, 1).double(), core], 1)])
