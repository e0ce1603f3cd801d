"""Compiles the kernels of linears and heads ahead of time and prints what their machine code is made of, as JSON.

``python -m tests.kernels.compile_gemm ARCHITECTURE [all]``, without ``TRITON_INTERPRET``; needs no GPU. Without
``all``, one or two variants of the tiles that the shipped tables use most.
"""

from __future__ import annotations

import collections
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
UNALIGNED = {"tokens", "blocks", "groups", "per_split", "rows", "parts"}
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
    found: list[tuple[str, int, Tile, str]] = []
    for bits in (4, 8):
        for place, tile in enumerate(families(chip, bits)):
            chosen = VARIANTS if everything else (VARIANTS[(place + bits // 8) % 2],)
            found += [("linear", bits, tile, variant) for variant in chosen]
    for bits in (4, 8, 16):
        for rows in (1, 32, 4096) if everything else (4096,):
            found.append(("head", bits, configs.head_tile(chip, rows, bits), "head"))
    return found


def main(chip: int, everything: bool) -> None:
    """Prints a line of JSON for every kernel."""
    for kernel, bits, tile, variant in cases(chip, everything):
        made = head(chip, bits, tile) if kernel == "head" else linear(chip, bits, tile, variant)
        about = {"kernel": kernel, "bits": bits, "tile": str(tile), "variant": variant}
        print(json.dumps({**about, **facts(made), "limit": CHIPS[chip].shared}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:] == ["all"])
