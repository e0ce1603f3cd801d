"""Sizes of tiles and of grids of the activation kernels; none depends on what a tensor holds."""

from __future__ import annotations

import dataclasses
import functools

import torch

PIECE = 4096
"""Channels that a kernel of whole tokens holds at a time."""
RESIDENT = 4
"""Programs for each multiprocessor; tokens beyond that are done one after the other, so that factors are read once."""
MOST_EACH = 16
"""Tokens that one program does at most."""
WIDE = 16384
"""Values, padded, of a token above which registers are short."""
ROOMY = (90, 100, 103)
"""Chips with 227 KiB of shared memory for a program."""


def power_of_two(size: int) -> int:
    """The least power of two that holds a size of 1 or more."""
    return 1 << (size - 1).bit_length()


def divided(size: int, by: int) -> int:
    """The quotient, rounded up."""
    return -(-size // by)


def padded(size: int) -> int:
    """The least power of two that holds a size and that ``tl.dot`` takes, which is 16 at least."""
    return max(16, power_of_two(size))


def pieces(size: int) -> tuple[int, int]:
    """Sizes, powers of two from 16 on, of the one or two pieces that cover a factor with the least padding."""
    whole = padded(size)
    first = whole // 2
    if first < 16 or size <= first:
        return whole, 0
    second = padded(size - first)
    return (first, second) if second < first else (whole, 0)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a Kronecker kernel holds a token [a, b].

    Attributes:
        rows: a, padded.
        first: Columns of the first piece of b.
        second: Of the second, or 0.
        stay: The factors stay in registers and shared memory from one token to the next.
        entered: What precedes the basis is a kernel of its own.
        warps: Of a program.
        stages: 2 = the next token is fetched during the present one.
    """

    rows: int
    first: int
    second: int
    stay: bool
    entered: bool
    warps: int
    stages: int


@functools.cache
def plan(a: int, b: int, capability: int, norm: bool, added: bool) -> Plan:
    """Chooses the form without spills, within shared memory; found by compiling (``test_triton_site_sass.py``).

    Args:
        a: Size of the left factor.
        b: Size of the right factor.
        capability: Of the chip: 80, 86, 89, 90.
        norm: A norm precedes the basis.
        added: A shift or signs do.
    """
    rows, (first, second) = padded(a), pieces(b)
    values, roomy = rows * (first + second), capability in ROOMY
    wide = values > WIDE
    return Plan(
        rows,
        first,
        second,
        stay=roomy or not wide,
        entered=wide and (norm or added),
        warps=warps(max(values, rows * rows)),
        # Small tokens leave room for several programs, which hide each other's latency.
        stages=2 if roomy and PIECE < values <= WIDE else 1,
    )


def warps(values: int) -> int:
    """Warps of a program that holds so many values at once."""
    return 4 if values <= 4096 else 8


def block_rows(dtype: torch.dtype) -> int:
    """Tokens of a tile of a block-diagonal basis, for which registers suffice on every chip."""
    return 32 if dtype == torch.float32 else 64


def tokens_each(tokens: int, device: torch.device) -> int:
    """Tokens that a program does: a power of two, so that few kernels are compiled."""
    share = divided(tokens, RESIDENT * multiprocessors(device))
    return min(power_of_two(share), MOST_EACH)


def multiprocessors(device: torch.device) -> int:
    """Of a CUDA device; 1 while interpreting."""
    if device.type != "cuda":
        return 1
    return _count(torch.cuda.current_device() if device.index is None else device.index)


@functools.cache
def _count(index: int) -> int:
    return int(torch.cuda.get_device_properties(index).multi_processor_count)
