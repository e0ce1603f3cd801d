"""Compiles the kernels of linears and heads ahead of time and prints what their machine code is made of, as JSON.

``python -m tests.kernels.compile_gemm ARCHITECTURE [all]``, without ``TRITON_INTERPRET``; needs no GPU. Without
``all``, one or two variants of the tiles that the shipped tables use most.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import re
import sys
from typing import Any

from triton.compiler import ASTSource

from starquant_fx.kernels.triton import configs, gemm, greedy
from starquant_fx.kernels.triton import linear as linears
from starquant_fx.kernels.triton.predict import CHIPS, Tile, families
from tests.kernels import sass

VARIANTS = ("full", "pair", "plain", "split", "group", "one")
"""Epilogues: everything but SwiGLU; SwiGLU and branch; scales only; parts of a split product; groups of channels; and
scales of one token, output and block, which launches make constants of."""
LINEAR = {
    **{"codes": "*i8", "scale": "*fp32", "zero": "*fp32", "packed": "*i8"},
    **{"weight_scale": "*fp32", "column_sum": "*i32", "out": "*bf16"},
}
FULL = {
    **{"state": "*i64", "state_bias": "*fp32", "coefficients": "*bf16", "image": "*bf16"},
    **{"residual": "*bf16"},
}
HEAD = {
    **{
        "x": "*bf16",
        "weight": "*bf16",
        "largest": "*fp32",
        "token_index": "*i32",
        "total": "*fp32",
    },
    **{"kind": "*bf16"},
}
FINISH = Tile(t=linears.FINISH_T, n=linears.FINISH_N, warps=4, stages=1, split=1, parts=1)
LAST = [
    *(("finish", 4, FINISH, variant) for variant in ("full", "one")),
    ("combine", 4, FINISH, "head"),
]
UNALIGNED = {"tokens", "blocks", "groups", "per_split", "rows", "parts", "tiles"}
"""Integers that may be anything; the others are multiples of 16."""


def compiled(
    kernel: Any, pointers: dict[str, str], constants: dict[str, Any], chip: int, tile: Tile
) -> sass.Facts:
    """A kernel for an architecture; pointers that are not given are None."""
    signature: dict[str, str] = {}
    values: dict[tuple[int, ...], Any] = {}
    hints: dict[tuple[int, ...], Any] = {}
    integers = (UNALIGNED | {"outputs", "features", "row_bytes"}) - set(constants)
    for place, name in enumerate(kernel.arg_names):
        if name in pointers:
            signature[name] = pointers[name]
        elif name in integers:
            signature[name] = "i32"
        else:
            signature[name] = "constexpr"
            values[(place,)] = constants.get(name)
        if name in pointers or name in integers - UNALIGNED:
            hints[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, values, hints)
    return sass.built(source, chip, tile.warps, tile.stages)


def linear(chip: int, bits: int, tile: Tile, variant: str) -> sass.Facts:
    """``gemm.linear_kernel`` with one of ``VARIANTS``."""
    pointers = dict(LINEAR)
    branched = variant in ("full", "pair", "group")
    if branched:
        pointers |= FULL
    if variant == "pair":
        del pointers["residual"]
    if variant == "split":
        pointers |= {"partial": "*i32"}
    group = 2 if variant == "group" else 0
    constants = {
        **{"T": tile.t, "N": tile.n, "BITS": bits, "GROUP": group, "FLUSH": configs.flush(group)},
        **{"EVEN": True, "PAIR": variant == "pair", "STATES": 2 * branched, "RANK": 32 * branched},
        **{"SWAP": chip >= 90, "ASM": True, "BAND": configs.BANDS, "PARTS": tile.parts},
    }
    if variant == "one":
        constants |= dict.fromkeys(("tokens", "outputs", "blocks", "groups", "per_split"), 1)
    return compiled(gemm.linear_kernel, pointers, constants, chip, tile)


def head(chip: int, bits: int, tile: Tile) -> sass.Facts:
    """``greedy``'s kernels: of a bfloat16 head (16) or a quantized one (4, 8)."""
    constants = {
        **{"T": tile.t, "N": tile.n, "K": 64, "BITS": bits, "GROUP": 0, "FLUSH": 1, "STATES": 0},
        **{"RANK": 0, "SWAP": chip >= 90, "EVEN": True, "ASM": True, "BAND": configs.BANDS},
    }
    kernel = greedy.float_head_kernel if bits == 16 else greedy.integer_head_kernel
    return compiled(kernel, {**LINEAR, **HEAD}, constants, chip, tile)


def facts(kernel: sass.Facts) -> dict[str, Any]:
    """Registers, stack, shared memory and counts of instructions of a compiled kernel."""
    found = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", kernel.sass)
    count = collections.Counter(found)

    def named(*starts: str) -> dict[str, int]:
        return {name: n for name, n in sorted(count.items()) if name.startswith(starts)}

    return {
        "name": kernel.name,
        "registers": kernel.registers,
        "stack": kernel.stack,
        "shared": kernel.shared,
        "unfenced": kernel.unfenced,
        "spills": named("LDL", "STL"),
        "products": named("IGMMA", "IMMA", "HGMMA", "HMMA"),
        "copies": named("LDGSTS"),
        "instructions": sum(count.values()),
    }


def cases(chip: int, everything: bool) -> list[tuple[str, int, Tile, str]]:
    """What is compiled for an architecture: (kernel, bits, tile, variant)."""
    if everything:
        return [
            *(
                ("linear", bits, tile, variant)
                for bits in (4, 8)
                for variant in VARIANTS
                for tile in families(chip, bits, variant == "group")
                if variant != "one" or tile.t <= 32  # larger ones are for more tokens
            ),
            *(
                ("head", bits, tile, "head")
                for bits in (4, 8, 16)
                for tile in sorted({configs.head_tile(chip, rows, bits) for rows in (1, 32, 4096)})
            ),
            *LAST,
        ]
    used = collections.Counter(
        (key[0], dataclasses.replace(tile, split=1))
        for key, tile in configs.read_table(configs.shipped_path(chip), chip).items()
    )
    often = [(bits, tile) for (bits, tile), _ in used.most_common()]
    nibbles = [tile for bits, tile in often if bits == 4]
    found = [
        ("linear", 4, nibbles[0], "full"),
        ("linear", 4, nibbles[0], "pair"),
        ("linear", 4, min(nibbles), "split"),
        ("linear", 8, next(tile for bits, tile in often if bits == 8), "full"),
    ]
    if chip in (86, 90):  # sm_80 and sm_89 have the machine code of sm_86
        found += [("linear", 4, tile, "pair") for tile in nibbles[1:]]
        found += [("linear", 4, min(nibbles), "one"), *LAST]
        found += [("linear", 8, families(chip, 8, grouped=True)[-1], "group")]
        found += [("head", bits, configs.head_tile(chip, 4096, bits), "head") for bits in (4, 16)]
    return found


def made(kernel: str, bits: int, tile: Tile, variant: str, chip: int) -> sass.Facts:
    """The compiled kernel of a case."""
    if kernel == "linear":
        return linear(chip, bits, tile, variant)
    if kernel == "head":
        return head(chip, bits, tile)
    if kernel == "finish":
        constants = {"T": tile.t, "N": tile.n, "BITS": bits, "GROUP": 0, "PAIR": False}
        constants |= {"STATES": 2, "RANK": 32}
        constants |= dict.fromkeys(("tokens", "outputs"), 1) if variant == "one" else {}
        pointers = {**LINEAR, **FULL, "partial": "*i32"}
        return compiled(gemm.finish_kernel, pointers, constants, chip, tile)
    pointers = {**HEAD, "peak": "*bf16", "tokens": "*i64", "probability": "*bf16"}
    return compiled(greedy.combine_kernel, pointers, {"WIDTH": 1024}, chip, tile)


def main(chip: int, everything: bool) -> None:
    """Prints a line of JSON for every kernel."""
    for kernel, bits, tile, variant in cases(chip, everything):
        about = {"kernel": kernel, "bits": bits, "tile": str(tile), "variant": variant}
        found = facts(made(kernel, bits, tile, variant, chip))
        print(json.dumps({**about, **found, "limit": CHIPS[chip].shared}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:] == ["all"])
