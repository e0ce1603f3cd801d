"""Compiles the kernels of linears and heads ahead of time and prints what their machine code is made of, as JSON.

``python -m tests.kernels.compile_gemm ARCHITECTURE [all]``, without ``TRITON_INTERPRET``; needs no GPU. Without
``all``, one or two variants of the tiles that the shipped tables use most.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from starquant_fx.kernels.triton import configs, gemm, greedy
from starquant_fx.kernels.triton import linear as linears
from starquant_fx.kernels.triton.predict import CHIPS, Tile, families

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
VARIANTS = ("full", "pair", "plain", "split", "group")
"""Epilogues: everything but SwiGLU; SwiGLU and branch; scales only; parts of a split product; groups of channels."""
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
UNALIGNED = {"tokens", "blocks", "groups", "per_split", "rows", "parts", "tiles"}
"""Integers that may be anything; the others are multiples of 16."""


def compiled(
    kernel: Any, pointers: dict[str, str], constants: dict[str, Any], chip: int, tile: Tile
) -> Any:
    """A kernel for an architecture; pointers that are not given are None."""
    signature: dict[str, str] = {}
    values: dict[tuple[int, ...], Any] = {}
    hints: dict[tuple[int, ...], Any] = {}
    integers = {
        "tokens",
        "outputs",
        "features",
        "row_bytes",
        "blocks",
        "groups",
        "per_split",
        "rows",
    }
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
    return triton.compile(
        ASTSource(kernel, signature, values, hints),
        target=GPUTarget("cuda", chip, 32),
        options={"num_warps": tile.warps, "num_stages": tile.stages},
    )


def linear(chip: int, bits: int, tile: Tile, variant: str) -> Any:
    """``gemm.linear_kernel`` with one of ``VARIANTS``."""
    pointers = dict(LINEAR)
    branched = variant in ("full", "pair", "group")
    if branched:
        pointers |= FULL
    if variant == "pair":
        del pointers["residual"]
    if variant == "split":
        pointers |= {"partial": "*i32"}
    group = 1 if variant == "group" else 0
    constants = {
        **{"T": tile.t, "N": tile.n, "BITS": bits, "GROUP": group, "FLUSH": 1, "EVEN": True},
        **{"PAIR": variant == "pair", "STATES": 2 * branched, "RANK": 32 * branched},
        **{"SWAP": chip >= 90, "ASM": True, "BAND": configs.BANDS, "PARTS": tile.parts},
    }
    return compiled(gemm.linear_kernel, pointers, constants, chip, tile)


def head(chip: int, bits: int, tile: Tile) -> Any:
    """``greedy``'s kernels: of a bfloat16 head (16) or a quantized one (4, 8)."""
    constants = {
        **{"T": tile.t, "N": tile.n, "K": 64, "BITS": bits, "GROUP": 0, "FLUSH": 1, "STATES": 0},
        **{"RANK": 0, "SWAP": chip >= 90, "EVEN": True, "ASM": True, "BAND": configs.BANDS},
    }
    kernel = greedy.float_head_kernel if bits == 16 else greedy.integer_head_kernel
    return compiled(kernel, {**LINEAR, **HEAD}, constants, chip, tile)


def facts(binary: Any) -> dict[str, Any]:
    """Registers, stack, shared memory and counts of instructions of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage = _output("cuobjdump", "-res-usage", file.name)
        code = _output("nvdisasm", "-c", file.name)
    found = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", code)
    count = collections.Counter(found)

    def named(*starts: str) -> dict[str, int]:
        return {name: n for name, n in sorted(count.items()) if name.startswith(starts)}

    return {
        "registers": int(re.findall(r"REG:(\d+)", usage)[0]),
        "stack": int(re.findall(r"STACK:(\d+)", usage)[0]),
        "shared": binary.metadata.shared,
        "spills": named("LDL", "STL"),
        "products": named("IGMMA", "IMMA", "HGMMA", "HMMA"),
        "copies": named("LDGSTS"),
        "instructions": sum(count.values()),
    }


def _output(tool: str, *arguments: str) -> str:
    command = [str(TOOLS / tool), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def cases(chip: int, everything: bool) -> list[tuple[str, int, Tile, str]]:
    """What is compiled for an architecture: (kernel, bits, tile, variant)."""
    if everything:
        return [
            *(
                ("linear", bits, tile, variant)
                for bits in (4, 8)
                for variant in VARIANTS
                for tile in families(chip, bits, variant == "group")
            ),
            *(
                ("head", bits, tile, "head")
                for bits in (4, 8, 16)
                for tile in sorted({configs.head_tile(chip, rows, bits) for rows in (1, 32, 4096)})
            ),
            ("finish", 4, FINISH, "full"),
            ("combine", 4, FINISH, "head"),
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
        found += [("head", bits, configs.head_tile(chip, 4096, bits), "head") for bits in (4, 16)]
    return found


def made(kernel: str, bits: int, tile: Tile, variant: str, chip: int) -> Any:
    """The compiled kernel of a case."""
    if kernel == "linear":
        return linear(chip, bits, tile, variant)
    if kernel == "head":
        return head(chip, bits, tile)
    if kernel == "finish":
        constants = {"T": tile.t, "N": tile.n, "BITS": bits, "GROUP": 0, "PAIR": False}
        constants |= {"STATES": 2, "RANK": 32}
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
