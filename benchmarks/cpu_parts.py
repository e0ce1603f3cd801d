#!/usr/bin/env python3
"""Speed of single CPU kernels, on random tensors: what a step of `star-w4a4` is made of, by number of tokens.

Linears: integer products in four bits with and without the low-rank branch, in eight bits (nothing to unpack), and
PyTorch's `_int_mm`. Sites: the whole site kernel with and without TAC. The variants of a line take turns; medians.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from starquant_fx.errors import InputError, exit_code
from starquant_fx.kernels import cpu, reference
from structures import medians

TOKENS = (1, 8, 32, 120, 512)
SIZES = ((1024, 3072), (4096, 4096))
RANK = 16


def linears(tokens: int, inputs: int, outputs: int) -> dict[str, Callable[[], Any]]:
    """A linear of [outputs, inputs] in the forms that are compared."""
    state = torch.arange(tokens) % 2
    row, image = torch.rand(tokens, 1), cpu.branch_image(torch.randn(2, RANK, outputs))
    coefficients = torch.randn(tokens, RANK).bfloat16()
    shift = torch.randn(2, outputs)

    def ours(bits: int, branch: bool) -> Callable[[], Tensor]:
        half = 2 ** (bits - 1)
        codes = torch.randint(0, 2**bits, (tokens, inputs), dtype=torch.uint8)
        weight = torch.randint(-half, half, (outputs, inputs), dtype=torch.int8)
        packed, sums = reference.pack(weight, bits), weight.sum(1, dtype=torch.int32)
        extra = (coefficients, image) if branch else ()
        given = (codes, row, row.round(), packed, torch.rand(outputs), sums, bits, None, state)
        return lambda: cpu.panel_linear(*given, shift, torch.bfloat16, *extra)

    plain = torch.randint(-127, 128, (max(tokens, 17), inputs), dtype=torch.int8)
    weight = torch.randint(-127, 128, (inputs, outputs), dtype=torch.int8)
    return {
        "4 bits with branch": ours(4, True),
        "4 bits": ours(4, False),
        "8 bits": ours(8, False),
        "_int_mm": lambda: torch.ops.aten._int_mm(plain, weight),
    }


def sites(tokens: int, features: int) -> dict[str, Callable[[], Any]]:
    """The site before an attention output projection, as `star` makes it, with and without TAC."""
    left = features // 128
    factors = [torch.linalg.qr(torch.randn(n, n))[0] for n in (128, left)]
    x, state = torch.randn(tokens, features).bfloat16(), torch.arange(tokens) % 2
    directions = torch.linalg.qr(torch.randn(2, features, RANK))[0]
    bounds = [features - 2 * left, features - left, features - left, features]

    def one(tac: bool) -> Callable[[], Any]:
        matrix = torch.randn(features // 16, 16, 16) if tac else None
        offset, means = torch.randn(features) if tac else None, torch.randn(2, features)
        clip = torch.ones(2)
        tables = cpu.site_tables(matrix, offset, means, directions, factors, bounds, clip)
        return lambda: cpu.site_codes(x, state, tables, RANK, features - 2 * left, 4, False)

    return {"site with TAC": one(True), "site without TAC": one(False)}


def run(threads: int, repeats: int) -> None:
    """Prints both tables."""
    reason = cpu.unavailable()
    if reason is not None:
        raise InputError("there are no CPU kernels here", where="kernels", got=reason)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    names = ("4 bits with branch", "4 bits", "8 bits", "_int_mm")
    print(f"GOP/s, {threads} thread(s)\n")
    print("| tokens | inputs x outputs | " + " | ".join(names) + " |")
    print("|---:|---|" + "---:|" * len(names))
    for inputs, outputs in SIZES:
        for tokens in TOKENS:
            calls = linears(tokens, inputs, outputs)
            found = dict(zip(calls, medians([*calls.values()], repeats), strict=True))
            # _int_mm takes no fewer than 17 rows.
            rows = {name: max(tokens, 17) if name == "_int_mm" else tokens for name in names}
            rates = [2e-9 * rows[name] * inputs * outputs / found[name] for name in names]
            cells = " | ".join(f"{rate:.0f}" for rate in rates)
            print(f"| {tokens} | {inputs} x {outputs} | {cells} |", flush=True)
    print("\n| tokens | channels | site with TAC, ms | without, ms |\n|---:|---:|---:|---:|")
    for features in (1024, 4096):
        times = medians([*sites(512, features).values()], repeats)
        cells = " | ".join(f"{1e3 * seconds:.2f}" for seconds in times)
        print(f"| 512 | {features} | {cells} |", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    top = argparse.ArgumentParser(description=__doc__)
    top.add_argument("--threads", type=int, default=1)
    top.add_argument("--repeats", type=int, default=31)
    arguments = top.parse_args(argv)
    return exit_code(lambda: run(max(1, arguments.threads), max(1, arguments.repeats)))


if __name__ == "__main__":
    sys.exit(main())
