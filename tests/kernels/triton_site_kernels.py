"""Compiles the activation kernels for the sizes of LLaDA-8B and Dream-7B, and prints the facts as JSON.

``test_triton_site_sass.py`` calls it as ``python -m tests.kernels.triton_site_kernels CAPABILITY ...``, in a process
that does not interpret.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from starquant_fx.kernels.triton.prepare import SPAN, tiles
from starquant_fx.kernels.triton.prepare_checks import (
    NARROW_BLOCK,
    WIDEST_BLOCK,
    WIDEST_BRANCH,
    WIDEST_BRANCH_FLOAT32,
    WITH_WIDE_BLOCKS,
)
from starquant_fx.kernels.triton.prepare_kernels import coefficient_kernel, prepare_kernel
from starquant_fx.kernels.triton.row_kernels import (
    block_kernel,
    enter_kernel,
    gate_kernel,
    squares_kernel,
)
from starquant_fx.kernels.triton.site_checks import WIDEST_BLOCK_FLOAT32, WIDEST_FLOAT32
from starquant_fx.kernels.triton.site_kernels import kronecker_kernel
from starquant_fx.kernels.triton.sizes import PIECE, block_rows, padded, plan, warps
from tests.kernels.sass import Facts, compile_kernel

ROW = {
    "x": "*bf16",
    "state": "*i64",
    "codes": "*i8",
    "scale": "*fp32",
    "zero": "*fp32",
    "eps": "fp32",
}
QUANTIZER = {"bits": 4, "symmetric": False, "states": 2}
ADDED = {"shift": "*fp32", "signs": "*fp32"}
FLOAT32_FACTORS = (WIDEST_FLOAT32, WIDEST_FLOAT32)
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def gates(d: int) -> dict[str, Any]:
    """Gates that leave each state 1/64 of its own."""
    edges = (d - d // 32, d - d // 64, d)
    return {"shared": edges[0], "bounds": (*edges[:2], *edges[1:])}


def kronecker(
    capability: int, a: int, b: int, norm: bool, added: bool, dtype: str = "bf16"
) -> Facts:
    form = plan(a, b, capability, norm, added)
    apart = form.entered
    options = {} if added and not apart else dict.fromkeys(ADDED)
    pointers = {name: f"*{dtype}" for name in ("x", "left", "right")}
    pointers |= ADDED if added and not apart else {}
    return compile_kernel(
        kronecker_kernel,
        ROW | {"clip": "*fp32", "tokens": "i32"} | pointers,
        QUANTIZER
        | gates(a * b)
        | options
        | {"norm": norm and not apart, "a": a, "b": b, "rows": form.rows, "first": form.first}
        | {"second": form.second, "each": 8, "stay": form.stay},
        capability,
        form.warps,
        form.stages,
    )


def gate(capability: int, d: int) -> Facts:
    return compile_kernel(
        gate_kernel,
        ROW | {"clip": "*fp32", "shift": "*fp32"},
        QUANTIZER | gates(d) | {"norm": True, "d": d, "piece": PIECE},
        capability,
        warps(PIECE),
    )


def squares(capability: int, d: int) -> Facts:
    return compile_kernel(
        squares_kernel,
        {"x": "*bf16", "squares": "*fp32"},
        {"d": d, "piece": PIECE},
        capability,
        warps(PIECE),
    )


def enter(capability: int, d: int) -> Facts:
    return compile_kernel(
        enter_kernel,
        {"x": "*bf16", "state": "*i64", "out": "*bf16", "eps": "fp32"} | ADDED,
        {"norm": True, "states": 2, "d": d, "piece": PIECE},
        capability,
        warps(PIECE),
    )


def block(capability: int, d: int, g: int, dtype: str = "bf16") -> Facts:
    pointers = {name: "*fp32" for name in ("shift", "squares", "factor")}
    pointers |= {"x": f"*{dtype}", "out": f"*{dtype}"}
    return compile_kernel(
        block_kernel,
        {"state": "*i64", "tokens": "i32", "eps": "fp32"} | pointers,
        {"states": 2, "d": d, "g": g, "rows": block_rows(DTYPES[dtype]), "width": padded(g)},
        capability,
    )


def coefficient(capability: int, d: int, columns: int, dtype: str = "bf16") -> Facts:
    form = tiles(1, columns, DTYPES[dtype])
    return compile_kernel(
        coefficient_kernel,
        {"x": f"*{dtype}", "reduce": f"*{dtype}", "sums": "*fp32", "squares": "*fp32"}
        | {"tokens": "i32"},
        {"d": d, "rank": 16, "columns": columns, "width": padded(columns), "rows": form.summed}
        | {"piece": SPAN, "share": d},
        capability,
    )


def prepare(
    capability: int, d: int, g: int, columns: int, dtype: str = "bf16", shares: int = 1
) -> Facts:
    form = tiles(g, columns, DTYPES[dtype])
    tables = {name: "*fp32" for name in ("shift", "start", "sums", "squares")}
    types = {name: f"*{dtype}" for name in ("x", "directions", "rest", "coefficients")}
    pointers = tables | types | {"state": "*i64"} | ({} if g == 1 else {"matrix": f"*{dtype}"})
    return compile_kernel(
        prepare_kernel,
        pointers | {"tokens": "i32", "eps": "fp32"},
        ({"matrix": None} if g == 1 else {})
        | {"states": columns // 16, "d": d, "g": g, "rank": 16, "columns": columns}
        | {"width": padded(columns), "shares": shares, "rows": form.rows}
        | {"tile": form.channels, "used": form.channels // g * g},
        capability,
        form.warps,
    )


WIDEST = (
    (4096, 16, 32, "bf16", 8),
    (12288, 16, WIDEST_BRANCH, "bf16", 8),
    (18944, WIDEST_BLOCK, WIDEST_BRANCH, "bf16", 8),
    (4096, 1, WIDEST_BRANCH, "bf16", 1),
    (3584, WIDEST_BLOCK, 64, "bf16", 1),
    (3584, 16, 64, "bf16", 8),
    (12288, NARROW_BLOCK, WIDEST_BRANCH_FLOAT32, "fp32", 8),
    (18944, WIDEST_BLOCK, WITH_WIDE_BLOCKS, "fp32", 8),
    (4096, 1, WIDEST_BRANCH_FLOAT32, "fp32", 1),
)
"""Channels, block of TAC, columns, dtype and shares at the limits of ``tile_prepare``, and what had spilled."""


def facts(capability: int) -> dict[str, Facts]:
    """Of the kernels with the largest number of options that a site of such a model has.

    Compute capability 8.9 has the limits and the instructions of 8.6, so that only what is near the limits is compiled.
    """
    found = {
        "kronecker 128x32": kronecker(capability, 128, 32, norm=True, added=True),
        "kronecker 128x28": kronecker(capability, 128, 28, norm=True, added=True),
        "kronecker 128x96": kronecker(capability, 128, 96, norm=False, added=True),
        "kronecker 128x148": kronecker(capability, 128, 148, norm=False, added=True),
    }
    if capability == 89:
        return found
    found |= {
        "gate 4096": gate(capability, 4096),
        "squares 12288": squares(capability, 12288),
        "enter 18944": enter(capability, 18944),
        "block 4096": block(capability, 4096, 128),
        "float32 block 4096": block(capability, 4096, WIDEST_BLOCK_FLOAT32, "fp32"),
        "float32 kronecker 32x32": kronecker(capability, *FLOAT32_FACTORS, True, True, "fp32"),
        "float32 kronecker 32x24": kronecker(capability, 32, 24, True, True, "fp32"),
        "coefficient 4096": coefficient(capability, 4096, 32),
        "coefficient 18944, widest": coefficient(capability, 18944, WIDEST_BRANCH),
        "float32 coefficient 4096": coefficient(capability, 4096, WIDEST_BRANCH_FLOAT32, "fp32"),
        "prepare 4096, blocks of 16": prepare(capability, 4096, 16, 32),
        "prepare 3584, blocks of 128": prepare(capability, 3584, 128, 32),
        "prepare 4096": prepare(capability, 4096, 1, 32),
    }
    for d, g, columns, dtype, shares in WIDEST:
        name = f"prepare {d}, blocks of {g}, {columns} columns, {shares} shares"
        name = f"float32 {name}" if dtype == "fp32" else name
        found[name] = prepare(capability, d, g, columns, dtype, shares)
    return found


def summary(fact: Facts) -> dict[str, int | str]:
    """What ``test_triton_site_sass.py`` asserts on; loads include copies to shared memory."""
    load, store = r"\bLDG(?:STS)?\.E\.(?:\w+\.)*", r"\bSTG\.E\.(?:\w+\.)*"
    return {
        "name": fact.name,
        "registers": fact.registers,
        "shared": fact.shared,
        "stack": fact.stack,
        "unfenced": fact.unfenced,
        "spills": fact.spills,
        "products": fact.count(r"\bHG?MMA\b"),
        "loads of 16 bytes": fact.count(load + "128"),
        "loads of less than 4 bytes": fact.count(load + "[SU](?:8|16)"),
        "stores of 16 bytes": fact.count(store + "128"),
        "stores of less than 4 bytes": fact.count(store + "[SU](?:8|16)"),
    }


def main() -> None:
    """Prints the facts of every kernel for every chip asked for."""
    print(
        json.dumps(
            {
                chip: {name: summary(fact) for name, fact in facts(int(chip)).items()}
                for chip in sys.argv[1:]
            }
        )
    )


if __name__ == "__main__":
    main()
