"""Times tiles of integer linears on a CUDA device and keeps the fastest for this user."""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from triton import testing

from starquant_fx.errors import InputError
from starquant_fx.kernels.triton import configs, linear
from starquant_fx.kernels.triton.launch import architecture
from starquant_fx.kernels.triton.layout import row_bytes
from starquant_fx.kernels.triton.predict import SPLITS, Tile, families, nearest_chip

SHAPES = tuple(shape for model in configs.SHAPES.values() for shape in model.values())


def _milliseconds(job: Callable[[], object]) -> float:
    found: Any = testing.do_bench(job)  # a single number, without quantiles
    return float(found)


def tune(
    device: torch.device,
    shapes: Iterable[tuple[int, int]] = SHAPES,
    tokens: Iterable[int] = configs.TOKENS,
    bits: Iterable[int] = (4, 8),
    measure: Callable[[Callable[[], object]], float] = _milliseconds,
) -> dict[configs.Key, tuple[Tile, float]]:
    """Times every tile on random codes, and adds the fastest ones to the table in the user's cache.

    Args:
        device: A CUDA device.
        shapes: Packed rows and channels of weights.
        tokens: Numbers of tokens; a table's keys, see ``configs.TOKENS``.
        bits: 4, 8 or both.
        measure: Milliseconds of a job.

    Returns:
        The fastest tile of each key (bits, rows, channels, tokens), and its milliseconds.

    Raises:
        InputError: A number of tokens that no launch looks up.
        LoweringError: The tensors are not on a CUDA device, and Triton is not interpreting.
        OSError: The table cannot be written.
    """
    tokens = tuple(tokens)
    for count in tokens:
        if count not in configs.TOKENS:
            raise InputError(
                "tiles cannot be tuned for this number of tokens",
                where="tune",
                expected=f"one of {', '.join(map(str, configs.TOKENS))}",
                got=str(count),
                hint="other numbers take the entry of the next larger one",
            )
    chip = nearest_chip(architecture(device))
    found = {
        (width, rows, features, count): _fastest(
            device, (width, rows, features, count), chip, measure
        )
        for width in bits
        for rows, features in shapes
        for count in tokens
    }
    kept = configs.read_table(configs.cache_path(chip), chip)
    _write(chip, kept | {key: tile for key, (tile, _) in found.items()})
    configs.forget()
    return found


def candidates(chip: int, key: configs.Key) -> list[Tile]:
    """Tiles that are timed for a key: those not much larger than the product, with splits that leave 4 blocks each."""
    bits, rows, features, tokens = key
    blocks = math.ceil(features / 128)
    sizes = [tile for tile in families(chip, bits) if tile.t < 2 * max(tokens, 32)]
    return [
        dataclasses.replace(tile, split=split)
        for tile in sizes
        for split in SPLITS
        if split == 1 or (split * 4 <= blocks and tokens * rows * split <= 2**26)
    ]


def _fastest(
    device: torch.device,
    key: configs.Key,
    chip: int,
    measure: Callable[[Callable[[], object]], float],
) -> tuple[Tile, float]:
    bits, rows, features, tokens = key
    codes = torch.randint(-8, 8, (tokens, features), dtype=torch.int8, device=device)
    size = (rows, row_bytes(features, bits))
    packed = torch.randint(0, 256, size, dtype=torch.uint8, device=device)
    scale = torch.ones(tokens, 1, device=device)
    weight_scale = torch.ones(rows, device=device)
    sums = torch.zeros(rows, dtype=torch.int32, device=device)
    operands = (codes, scale, torch.zeros_like(scale), packed, weight_scale, sums, bits)
    options = linear.Options(dtype=torch.bfloat16)

    def timed(tile: Tile) -> float:
        config = configs.launch_config(tile, chip)
        return measure(lambda: linear.launch(*operands, options, config))

    return min(((tile, timed(tile)) for tile in candidates(chip, key)), key=lambda pair: pair[1])


def _write(chip: int, table: dict[configs.Key, Tile]) -> None:
    """Under a temporary name first: what reads at the same time finds the old table or the new one."""
    path = configs.cache_path(chip)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(configs.table_text(chip, "measured", table))
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise
