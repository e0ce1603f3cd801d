#!/usr/bin/env python3
"""What a basis costs at run time, by its structure: the time of ``x Q`` beside that of a linear of the same width.

The operators are the reference's, on whole tensors and through PyTorch; a fused kernel pays less to read and write.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from starquant_fx.basis import BasisShape
from starquant_fx.kernels.reference import rotate

STRUCTURES = (
    ("dense", 0),
    ("kronecker", 128),
    ("kronecker", 0),
    ("block", 128),
    ("hadamard", 0),
)
"""Structure and wanted size, as the table `structure` of the accuracy benchmark has them."""


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    top = argparse.ArgumentParser(description=__doc__)
    top.add_argument("--widths", default="256,640,1024,4096", help="separated by commas")
    top.add_argument("--tokens", type=int, default=512)
    top.add_argument("--repeats", type=int, default=15)
    top.add_argument("--threads", type=int, default=1)
    top.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    return top


def wall(call: Callable[[], Any]) -> float:
    """Seconds of one call by the wall clock."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_turns(
    calls: Sequence[Callable[[], Any]],
    repeats: int,
    seconds: Callable[[Callable[[], Any]], float] = wall,
) -> list[list[float]]:
    """Seconds of each call, ``repeats`` of them after a first one; they take turns, so that noise hits all alike.

    Args:
        calls: What is timed.
        repeats: Timed rounds.
        seconds: Runs and times one call.
    """
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats + 1):
        for call, found in zip(calls, times, strict=True):
            found.append(seconds(call))
    return [found[1:] for found in times]


def medians(calls: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """Median seconds of each call, as ``in_turns`` times them."""
    return [statistics.median(found) for found in in_turns(calls, repeats)]


def rows(width: int, tokens: int, repeats: int, dtype: torch.dtype) -> list[str]:
    """Markdown rows of one width."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    x, weight = draw(tokens, width), draw(width, width)
    shapes = [BasisShape.choose(name, width, size, 0) for name, size in STRUCTURES]
    factors = [[draw(*size) for size in shape.factor_shapes()] for shape in shapes]

    def turn(index: int) -> Callable[[], Tensor]:
        return lambda: rotate(x, factors[index], shapes[index].structure)

    linear: Callable[[], Tensor] = lambda: torch.nn.functional.linear(x, weight)  # noqa: E731
    base, *found = medians([linear, *(turn(i) for i in range(len(shapes)))], repeats)
    return [
        f"| {width} | {shape} | {shape.multiply_adds() / width**2:.3f} | {seconds / base:.2f} |"
        for shape, seconds in zip(shapes, found, strict=True)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    arguments = parser().parse_args(argv)
    torch.set_num_threads(arguments.threads)
    print("| width | basis | multiply-adds / linear's | time / linear's |\n|---:|---|---:|---:|")
    with torch.no_grad():
        for width in map(int, arguments.widths.split(",")):
            dtype = getattr(torch, arguments.dtype)
            print(*rows(width, arguments.tokens, arguments.repeats, dtype), sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
