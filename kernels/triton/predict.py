"""Tiles that kernels are compiled with, and a prediction of the best one for a product. Nothing here was measured.

The model of time: a program's loop runs at the speed of the matrix units or of the second-level cache, whichever is
slower, plus a fixed wait a block; programs run in waves; a split product writes and reads its parts again.
"""

from __future__ import annotations

import dataclasses
import functools
import math


@dataclasses.dataclass(frozen=True, order=True)
class Tile:
    """The shape of a program.

    Attributes:
        t: Tokens of a tile.
        n: Packed rows of a tile.
        warps: Warps of a program.
        stages: Of the loop's pipeline.
        split: Parts that the channels are split into.
        parts: Parts that the epilogue takes the tokens of a tile in.
    """

    t: int
    n: int
    warps: int
    stages: int
    split: int
    parts: int


@dataclasses.dataclass(frozen=True)
class Chip:
    """What the prediction knows of an architecture, from data sheets of its usual chip.

    Attributes:
        units: Multiprocessors.
        rate: int8 multiply-adds per clock and multiprocessor.
        memory: Bytes per clock and multiprocessor from device memory.
        cache: Bytes per clock and multiprocessor from the second-level cache, a guess.
        shared: Bytes of shared memory that a program can have.
    """

    units: int
    rate: int
    memory: float
    cache: float
    shared: int


CHIPS = {
    80: Chip(units=108, rate=2048, memory=10.0, cache=32.0, shared=166912),
    86: Chip(units=84, rate=1024, memory=4.8, cache=20.0, shared=101376),
    89: Chip(units=142, rate=1024, memory=2.4, cache=16.0, shared=101376),
    90: Chip(units=132, rate=4096, memory=18.0, cache=40.0, shared=232448),
}
"""A100, A40, L40S and H200."""
WAIT = 250
"""Clocks a block of channels waits for copies and barriers; programs of a multiprocessor hide each other's."""
LARGE = ((256, 128, 8, 3), (128, 256, 8, 3))
"""Tokens, rows, warps and stages of tiles that only sm_90 has registers for."""
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)


def nearest_chip(chip: int) -> int:
    """The known architecture whose tiles an architecture takes."""
    return max((known for known in CHIPS if known <= chip), default=min(CHIPS))


def families(chip: int, bits: int, grouped: bool = False) -> tuple[Tile, ...]:
    """Tiles without a split; all are checked in their machine code.

    Args:
        chip: Architecture.
        bits: 4 or 8.
        grouped: With scales of groups of channels, whose sums take registers too: larger tiles would spill.
    """
    wide = nearest_chip(chip) >= 90
    shapes = [(32, 64, 4, 5), (64, 64, 4, 4), (128, 64, 4, 3), (64, 128, 8, 4), (128, 128, 8, 3)]
    if wide:  # of 16 tokens, sm_8x would copy less than 16 bytes at once
        shapes = [(16, 64, 4, 5), *shapes, *(LARGE if bits == 4 else ())]
    elif bits == 8 and CHIPS[nearest_chip(chip)].shared < 2**17:
        shapes = [(t, n, warps, min(stages, 3)) for t, n, warps, stages in shapes]
    return tuple(
        Tile(t=t, n=n, warps=warps, stages=stages, split=1, parts=min(4, max(1, t // 32)))
        for t, n, warps, stages in shapes
        if n == 64 or not grouped
    )


@functools.cache
def predict(
    chip: int, bits: int, rows: int, features: int, tokens: int, grouped: bool = False
) -> Tile:
    """The tile with the least predicted time.

    Args:
        chip: Architecture.
        bits: 4 or 8.
        rows: Packed rows of the weight.
        features: Channels.
        tokens: Of the activations.
        grouped: See ``families``.
    """
    known = CHIPS[nearest_chip(chip)]
    blocks = math.ceil(features / 128)
    candidates = [
        dataclasses.replace(tile, split=split)
        for tile in families(chip, bits, grouped)
        for split in SPLITS
        if split == 1 or (split * 4 <= blocks and tokens <= 512)
    ]
    return min(candidates, key=lambda tile: (clocks(known, tile, bits, rows, blocks, tokens), tile))


def clocks(chip: Chip, tile: Tile, bits: int, rows: int, blocks: int, tokens: int) -> float:
    """Predicted clocks of a product of ``blocks`` blocks of channels."""
    width = bits * 16  # bytes of a row of weights in a block
    stage = tile.t * 128 + tile.n * width
    registers = tile.t * tile.n * (2 if chip.rate > 2048 else 3)
    resident = max(1, min(chip.shared // (stage * tile.stages), 65536 // registers, 8))
    programs = math.ceil(tokens / tile.t) * math.ceil(rows / tile.n) * tile.split
    waves = programs / (chip.units * resident)
    waves = math.ceil(waves) if waves < 8 else waves
    busy = min(resident, math.ceil(programs / chip.units))
    one = max(tile.t * tile.n * 128 / chip.rate, stage / chip.cache)
    loop = waves * math.ceil(blocks / tile.split) * (busy * one + WAIT / busy)
    moved = rows * blocks * width + tokens * blocks * 128 + tokens * rows * 2
    parts = 8 * tile.split * tokens * rows if tile.split > 1 else 0
    floor = moved / (chip.memory * chip.units)
    return max(loop, floor) + parts / (2 * chip.memory * chip.units) + (2000 if parts else 0)
