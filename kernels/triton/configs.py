"""Which tile a product takes: a table measured by the user, else the shipped one, else a prediction.

Tables are JSON, one an architecture: ``tuned/sm_90.json`` in this folder is shipped, ``triton-sm_90.json`` in the
user's cache is what ``tune.tune`` measured. ``origin`` says whether entries are "measured" or "predicted".
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from starquant_fx.kernels.cpu.library import cache_folder
from starquant_fx.kernels.triton.launch import architecture
from starquant_fx.kernels.triton.predict import Tile, families, nearest_chip, predict

TOKENS = (32, 128, 256, 1024, 4096, 16384)
"""Numbers of tokens that tables have entries for; others take the next larger one, or the last."""
SHAPES = {
    "LLaDA-8B": {
        "q, k, v": (12288, 4096),
        "o": (4096, 4096),
        "gate, up": (24576, 4096),
        "down": (4096, 12288),
        "head": (126464, 4096),
    },
    "Dream-7B": {
        "q, k, v": (4608, 3584),
        "o": (3584, 3584),
        "gate, up": (37888, 3584),
        "down": (3584, 18944),
        "head": (152064, 3584),
    },
}
"""Packed rows and channels of the linears that tables are for."""
ARCHITECTURES = (80, 86, 89, 90)
FORMAT = 1
FIELDS = tuple(field.name for field in dataclasses.fields(Tile))
BANDS = 8
"""Tiles of tokens that go through the weights together."""
INTERPRETED_TILE = Tile(t=16, n=64, warps=4, stages=1, split=1, parts=1)

Key = tuple[int, int, int, int]
"""Bits, packed rows, channels, tokens."""

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Config(Tile):
    """What a launch takes: a tile and how it is gone through.

    Attributes:
        band: See ``gemm.tile_place``.
        swap: See ``product``.
    """

    band: int
    swap: bool


def choose(
    device: torch.device, tokens: int, rows: int, features: int, bits: int, grouped: bool = False
) -> Config:
    """The tile of a product.

    Args:
        device: Where it runs; while interpreting, a CPU gets a small tile.
        tokens: Of the activations.
        rows: Packed rows of the weight.
        features: Channels.
        bits: 4 or 8.
        grouped: Groups of channels have scales of their own; tables have no entries for that.
    """
    chip = architecture(device)
    if device.type != "cuda":
        return launch_config(INTERPRETED_TILE, chip)
    return _chosen(chip, bits, rows, features, bucket(tokens), grouped)


@functools.cache
def choose_head(device: torch.device, rows: int, bits: int) -> Config:
    """The tile of a head's kernel, for some rows and weights of 8, 16 or 32 bits (predicted, not measured)."""
    chip = architecture(device)
    if device.type != "cuda":
        return launch_config(INTERPRETED_TILE, chip)
    return launch_config(head_tile(chip, rows, bits), chip)


def head_tile(chip: int, rows: int, bits: int) -> Tile:
    """The tile of a head's kernel on an architecture; see ``choose_head``."""
    least = 16 if chip >= 90 else 32
    t = next((size for size in (16, 32) if size >= max(rows, least)), 64)
    stages = 2 if bits == 32 else 3
    return Tile(t=t, n=128, warps=4 if t < 64 else 8, stages=stages, split=1, parts=1)


def flush(group: int) -> int:
    """Blocks of channels to sum as integers, for groups of ``group`` blocks (0 = none).

    At most two: they are a stage of the loop together, and more would not fit shared memory.
    """
    return 2 if group and group % 2 == 0 else 1


def bucket(tokens: int) -> int:
    """The number of tokens that a table's entry for ``tokens`` is under."""
    return next((size for size in TOKENS if size >= tokens), TOKENS[-1])


@functools.cache
def _chosen(chip: int, bits: int, rows: int, features: int, tokens: int, grouped: bool) -> Config:
    key = (bits, rows, features, tokens)
    if grouped:
        return launch_config(predict(chip, *key, grouped=True), chip)
    table = _tables(chip)
    return launch_config(table[key] if key in table else predict(chip, *key), chip)


def launch_config(tile: Tile, chip: int) -> Config:
    """What a launch takes of a tile on an architecture."""
    return Config(**dataclasses.asdict(tile), band=BANDS, swap=chip >= 90)


@functools.cache
def _tables(chip: int) -> Mapping[Key, Tile]:
    """The shipped table of the nearest known architecture under what the user measured on this one."""
    known = nearest_chip(chip)
    return {**read_table(shipped_path(known), known), **read_table(cache_path(chip), chip)}


def forget() -> None:
    """Reads tables again at the next launch."""
    for cached in (_chosen, _tables, choose_head):
        cached.cache_clear()


def shipped_path(chip: int) -> Path:
    """The shipped table of an architecture."""
    return Path(__file__).parent / "tuned" / f"sm_{chip}.json"


def cache_path(chip: int) -> Path:
    """What the user's ``tune`` wrote."""
    return cache_folder() / f"triton-sm_{chip}.json"


def read_table(path: Path, chip: int) -> dict[Key, Tile]:
    """Entries of a table's file; none, and a warning in the log, if it is damaged; none if there is no file."""
    try:
        content = json.loads(path.read_bytes())
        if (content["format"], content["architecture"]) != (FORMAT, chip):
            raise ValueError(f"not a table in format {FORMAT} for sm_{chip}")
        return dict(_entry(entry, chip) for entry in content["entries"])
    except FileNotFoundError:
        return {}
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        _log.warning("ignoring the table of tiles %s: %s: %s", path, type(error).__name__, error)
        return {}


def table_text(
    chip: int, origin: str, entries: Mapping[Key, Tile], about: Mapping[str, object] | None = None
) -> str:
    """The content of a table's file, an entry a line.

    Args:
        chip: Architecture.
        origin: "measured" or "predicted".
        entries: Tiles.
        about: What else the file says; nothing here reads it.
    """
    lines = [
        json.dumps([*key, *(getattr(tile, name) for name in FIELDS)])
        for key, tile in sorted(entries.items())
    ]
    head = {
        "format": FORMAT,
        "architecture": chip,
        "origin": origin,
        **(about or {}),
        "fields": ["bits", "rows", "channels", "tokens", *FIELDS],
    }
    body = ",\n    ".join(lines)
    return json.dumps(head, indent=2)[:-2] + f',\n  "entries": [\n    {body}\n  ]\n}}\n'


def predicted_table(chip: int) -> dict[Key, Tile]:
    """What is shipped for an architecture until someone measures there."""
    keys = [
        (bits, rows, features, tokens)
        for bits in (4, 8)
        for model in SHAPES.values()
        for rows, features in model.values()
        for tokens in TOKENS
    ]
    return {key: predict(chip, *key) for key in keys}


def _entry(entry: list[int], chip: int) -> tuple[Key, Tile]:
    """A line of a table, checked: a wrong one would not compile, or compute something else."""
    bits, rows, features, tokens, *rest = entry
    tile = Tile(**dict(zip(FIELDS, rest, strict=True)))
    if any(type(value) is not int or value < 1 for value in entry):
        raise ValueError(f"{entry} is not made of positive integers")
    shapes = {dataclasses.replace(found, split=1) for found in families(chip, bits)}
    if bits not in (4, 8) or dataclasses.replace(tile, split=1) not in shapes or tile.split > 64:
        raise ValueError(f"{entry} is not a tile of sm_{chip}")
    return (bits, rows, features, tokens), tile
