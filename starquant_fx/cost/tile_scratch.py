"""What the kernels of one call of the triton target write for each other: shares of sums, parts of split products.

How many there are follows from the chip and the number of tokens, as the kernels choose it. The kernels are imported
when a prediction is made, because without them there is no graph of theirs to predict.
"""

from __future__ import annotations

import functools

import sympy
from torch import Tensor

from starquant_fx.cost.calls import size, tokens
from starquant_fx.cost.work import Scratch

WRITTEN_AND_READ = 2
FLOAT32 = 4
CHOICE = 12
"""Bytes that a tile of a head leaves of a row: largest logit, its token, sum of exponentials."""


def prepared(x: Tensor, block: int, columns: sympy.Expr, norm: bool) -> Scratch:
    """Shares of a branch's coefficients [T, columns], and of the sums of squares, in float32."""
    channels = int(size(x.shape[-1]))
    width = int(columns) + norm

    def of(architecture: int, count: int) -> tuple[float, int]:
        from starquant_fx.kernels.triton.predict import CHIPS, nearest_chip
        from starquant_fx.kernels.triton.prepare import split, tiles
        from starquant_fx.kernels.triton.sizes import divided

        rows = tiles(block, int(columns), x.dtype).rows
        units = CHIPS[nearest_chip(architecture)].units
        shares = split(channels, divided(count, rows), units)[0] if columns else 1
        return float(WRITTEN_AND_READ * FLOAT32 * shares * count * width), 0

    return Scratch(tokens(x), of)


def split_product(codes: Tensor, rows: int, bits: int, grouped: bool) -> Scratch:
    """Parts of a product whose channels are split, [parts, T, rows] of four bytes, and the kernel that adds them up."""
    channels = int(size(codes.shape[-1]))

    def of(architecture: int, count: int) -> tuple[float, int]:
        parts = _parts(architecture, bits, rows, channels, count, grouped)
        return (
            (float(WRITTEN_AND_READ * FLOAT32 * parts * count * rows), 1) if parts > 1 else (0.0, 0)
        )

    return Scratch(tokens(codes), of)


@functools.cache
def _parts(
    architecture: int, bits: int, rows: int, channels: int, count: int, grouped: bool
) -> int:
    """How many parts the tables that are shipped choose; what a user measured on a machine is not looked at."""
    from starquant_fx.kernels.triton import configs
    from starquant_fx.kernels.triton.predict import nearest_chip, predict

    chip = nearest_chip(architecture)
    key = (bits, rows, channels, configs.bucket(count))
    table = {} if grouped else configs.read_table(configs.shipped_path(chip), chip)
    return (table[key] if key in table else predict(chip, *key, grouped=grouped)).split


def head_choices(x: Tensor, vocab: int) -> Scratch:
    """What tiles of 128 tokens of the vocabulary leave of each row."""

    def of(architecture: int, count: int) -> tuple[float, int]:
        from starquant_fx.kernels.triton.configs import head_tile

        tiles = -(-vocab // head_tile(architecture, count, 8).n)
        return float(WRITTEN_AND_READ * CHOICE * tiles * count), 0

    return Scratch(tokens(x), of)
