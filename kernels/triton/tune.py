"""Times tiles of integer linears on a CUDA device and keeps the fastest for this user."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import triton
from triton import testing

from starquant_fx.errors import InputError, LoweringError, cause
from starquant_fx.kernels.triton import configs, linear
from starquant_fx.kernels.triton.launch import architecture, interpreting
from starquant_fx.kernels.triton.layout import row_bytes
from starquant_fx.kernels.triton.predict import SPLITS, Tile, families

SHAPES = tuple(shape for model in configs.SHAPES.values() for shape in model.values())

STALE = "stale"
"""Keys in a table's file that were measured on another device of the architecture, or with another Triton."""
Measure = Callable[[Callable[[], object]], float]

_log = logging.getLogger("starquant_fx")


def _milliseconds(job: Callable[[], object]) -> float:
    found: Any = testing.do_bench(job)  # a single number, without quantiles
    return float(found)


def tune(
    device: torch.device,
    shapes: Iterable[tuple[int, int]] = SHAPES,
    tokens: Iterable[int] = configs.TOKENS,
    bits: Iterable[int] = (4, 8),
    measure: Measure = _milliseconds,
    again: bool = False,
) -> dict[configs.Key, tuple[Tile, float]]:
    """Times every tile on random codes, and adds the fastest ones to the table in the user's cache.

    The table is written after every key, so that a run that was ended goes on where it was. A tile that cannot run is
    left out, and the log says so.

    Args:
        device: A CUDA device; a CPU while Triton is interpreting.
        shapes: Packed rows and channels of weights.
        tokens: Numbers of tokens; a table's keys, see ``configs.TOKENS``.
        bits: 4, 8 or both.
        measure: Milliseconds of a job.
        again: Also what was measured before on this kind of device with this Triton.

    Returns:
        Of each key (bits, rows, channels, tokens) that was timed, the fastest tile and its milliseconds.

    Raises:
        InputError: A number of tokens that no launch looks up.
        LoweringError: There is no such device.
        OSError: The table cannot be written.
    """
    shapes, tokens = tuple(shapes), tuple(tokens)
    for count in tokens:
        if count not in configs.TOKENS:
            raise InputError(
                "tiles cannot be tuned for this number of tokens",
                where="tune",
                expected=f"one of {', '.join(map(str, configs.TOKENS))}",
                got=str(count),
                hint="other numbers take the entry of the next larger one",
            )
    _require(device)
    chip = architecture(device)
    path = configs.cache_path(chip)
    table = configs.read_table(path, chip)
    about = {"device": _name(device), "triton": triton.__version__}
    stale = set(table) if again else _stale(path, table, about)
    found: dict[configs.Key, tuple[Tile, float]] = {}
    for key in [(w, *shape, count) for w in bits for shape in shapes for count in tokens]:
        kept = key in table and key not in stale
        best = None if kept else _fastest(device, key, chip, measure)
        if best is not None:
            found[key] = best
            table[key] = best[0]
            stale.discard(key)
            head = {**about, STALE: sorted(stale)}
            _write(path, configs.table_text(chip, "measured", table, head))
    configs.forget()
    return found


def _require(device: torch.device) -> None:
    if torch.cuda.is_available() if device.type == "cuda" else interpreting():
        return
    raise LoweringError(
        "tiles cannot be timed here",
        where="tune",
        expected="a CUDA device",
        got=f"{device}, and no GPU that PyTorch can use" if device.type == "cuda" else str(device),
        hint="run it where the models will run",
    )


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter"


def _stale(
    path: Path, keys: Iterable[configs.Key], about: Mapping[str, object]
) -> set[configs.Key]:
    """The keys of a table that were measured on another device of the architecture, or with another Triton."""
    try:
        head = json.loads(path.read_bytes())
        if all(head.get(name) == value for name, value in about.items()):
            return {tuple(key) for key in head[STALE]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # no table, or a damaged one, which has no keys
    return set(keys)


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
    measure: Measure,
) -> tuple[Tile, float] | None:
    """The tile with the least time, and its milliseconds; None if none runs."""
    bits, rows, features, tokens = key
    codes = torch.randint(-8, 8, (tokens, features), dtype=torch.int8, device=device)
    size = (rows, row_bytes(features, bits))
    packed = torch.randint(0, 256, size, dtype=torch.uint8, device=device)
    scale = torch.ones(tokens, 1, device=device)
    weight_scale = torch.ones(rows, device=device)
    sums = torch.zeros(rows, dtype=torch.int32, device=device)
    operands = (codes, scale, torch.zeros_like(scale), packed, weight_scale, sums, bits)
    options = linear.Options(dtype=torch.bfloat16)

    found: list[tuple[float, Tile]] = []
    for tile in candidates(chip, key):
        config = configs.launch_config(tile, chip)
        try:
            found.append((measure(lambda c=config: linear.launch(*operands, options, c)), tile))  # type: ignore[misc]
        except (
            Exception
        ) as error:  # compilers and devices fail in many ways; the other tiles may run
            _log.warning("tune: %s is left out for %s: %s", tile, key, cause(error))
    if not found:
        _log.warning("tune: no tile runs for %s", key)
        return None
    milliseconds, best = min(found, key=lambda pair: pair[0])
    return best, milliseconds


def _write(path: Path, text: str) -> None:
    """Under a temporary name first: what reads at the same time finds the old table or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise
