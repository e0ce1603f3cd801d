"""Random sites for the tile kernels, and what the reference makes of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from starquant_fx.kernels import reference
from starquant_fx.kernels.triton.site import tile_site

Found = tuple[Tensor, Tensor, Tensor]


@dataclasses.dataclass
class Site:
    """Arguments of ``tile_site``, in its order."""

    x: Tensor
    eps: float | None
    state: Tensor | None
    shift: Tensor | None
    factors: list[Tensor]
    structure: str
    shared: int
    bounds: list[int]
    bits: int
    symmetric: bool
    clip: Tensor | None

    def found(self) -> Found:
        return tile_site(*self.arguments())

    def arguments(self) -> list[Any]:
        return [getattr(self, field.name) for field in dataclasses.fields(self)]

    def expected(self) -> Found:
        """Codes as int32 of 0 .. 2^bits - 1, scale and zero point, by the reference."""
        x = rms_norm(self.x, self.eps)
        if self.shift is not None and self.state is not None:
            x = reference.center(x, self.state, -self.shift)
        if self.factors:
            x = reference.rotate(x, self.factors, self.structure)
        if self.bounds and self.state is not None:
            x = reference.gate(x, self.state, self.shared, self.bounds)
        codes, scale, zero = reference.quantize_activation(x, self.bits, self.symmetric, self.clip)
        return codes.int(), scale, zero


def rms_norm(x: Tensor, eps: float | None) -> Tensor:
    """Without a gain, in float32, returned in the dtype of ``x``."""
    if eps is None:
        return x
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def orthogonal(*shape: int) -> Tensor:
    return torch.linalg.qr(torch.randn(*shape))[0].contiguous()


def basis(structure: str, a: int, b: int) -> list[Tensor]:
    """Factors for a * b channels; empty for the structure ``none``."""
    pair = [orthogonal(a, a), orthogonal(b, b)]
    return {
        "none": [],
        "dense": [orthogonal(a * b, a * b)],
        "block": [orthogonal(a, b, b)],
        "kronecker": pair,
        "hadamard": [torch.randn(a * b).sign(), *pair],
    }[structure]


def site_case(
    structure: str,
    a: int,
    b: int,
    lead: tuple[int, ...] = (2, 3),
    dtype: torch.dtype = torch.float32,
    states: int = 2,
    norm: bool = True,
    shift: bool = True,
    gates: bool = True,
    bits: int = 4,
    symmetric: bool = False,
    clip: bool = False,
    seed: int = 0,
) -> Site:
    torch.manual_seed(seed)
    d = a * b
    x = (torch.randn(*lead, d) * torch.rand(d).mul(3).exp()).to(dtype)
    edges = [d - 2 * (d // 8), d - d // 8, d]
    bounds = [e for z in range(states) for e in (edges[z % 2], edges[z % 2 + 1])]
    return Site(
        x,
        1e-5 if norm else None,
        torch.randint(states, lead),
        torch.randn(states, d) if shift else None,
        basis(structure, a, b),
        structure,
        edges[0],
        bounds if gates else [],
        bits,
        symmetric,
        torch.tensor([0.9, 0.7]) if clip else None,
    )


def require_close(found: Found, expected: Found, bits: int, half: bool) -> None:
    """Codes less their zero point differ by at most one level, in a small share; scales and zero points hardly.

    In float32 that share is 1e-4. In 16 bits, where products are rounded in another order, it is 1 % at four bits and
    doubles with every bit. In each case two codes more may differ, for tests of a few values.
    """
    codes, scale, zero = found
    offset = 128 if bits == 8 else 0
    assert codes.dtype == torch.int8
    level, point = codes.int() + offset, zero + offset
    assert codes.numel() == 0 or 0 <= int(level.min()) <= int(level.max()) < 2**bits
    torch.testing.assert_close(scale, expected[1], rtol=4e-3 if half else 2e-6, atol=0)
    assert bool(((point - expected[2]).abs() <= (1 if half else 0)).all())
    apart = ((level - point) - (expected[0] - expected[2])).abs()
    assert bool((apart <= 1).all())
    share = 0.01 * 2 ** max(bits - 4, 0) if half else 1e-4
    assert int((apart > 0).sum()) <= 2 + share * codes.numel()
