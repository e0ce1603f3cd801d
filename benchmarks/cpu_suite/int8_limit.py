"""The limit: every linear of the model as one int8 product of PyTorch, the fastest that it has, and nothing else."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cpu_suite.runner import Runner
from cpu_suite.specs import Place

PLAIN, PREPACKED = "_int_mm", "onednn.qlinear_pointwise (prepacked)"
TRIALS = 5
"""Timed products of each kind, in turns; the fastest of each is compared."""
Product = Callable[[], Tensor]


def build(place: Place) -> Runner:
    """Products of random codes, [B L, inputs] by [inputs, outputs], with weights of their own for every linear.

    Of two ways to multiply, the first forward of a number of tokens times both for every size, and takes the faster.
    """
    weights = [_codes(inputs, outputs) for inputs, outputs in place.spec.products]
    made: dict[tuple[int, int], list[tuple[str, Product]]] = {}
    ran = Counter[str]()

    def forward(ids: Tensor, rows: Tensor | None) -> None:
        tokens = ids.numel()
        sizes = (tokens, tokens if rows is None else rows.numel())
        if sizes not in made:
            made[sizes] = _products(weights, *sizes)
        for _, product in made[sizes]:
            product()
        ran.clear()
        ran.update(name for name, _ in made[sizes])

    def note() -> str:
        kinds = ", ".join(f"{count} by {name}" for name, count in ran.most_common())
        return f"all linears and the head, nothing else: {kinds}"

    return Runner(forward, None, "int8", None, note)


def _products(weights: list[Tensor], tokens: int, rows: int) -> list[tuple[str, Product]]:
    """The products of all linears, the last of which, the head's, has ``rows`` rows; each with its name."""
    taken: dict[tuple[int, ...], str] = {}
    found = []
    for i, weight in enumerate(weights):
        count = rows if i == len(weights) - 1 else tokens
        size = (count, *weight.shape)
        if size not in taken:
            taken[size] = _fastest(count, weight)
        found.append((taken[size], WAYS[taken[size]](count, weight)))
    return found


def _fastest(rows: int, weight: Tensor) -> str:
    products = {name: way(rows, weight) for name, way in WAYS.items() if way is plain or prepacks()}
    seconds = dict.fromkeys(products, float("inf"))
    for _ in range(TRIALS + 1):  # in the first one nothing is warm; it is no minimum
        for name, product in products.items():
            start = time.perf_counter()
            product()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return min(seconds, key=seconds.__getitem__)


def plain(rows: int, weight: Tensor) -> Product:
    """Signed codes [rows, K] by the weight's [K, N] as it lies; sums in int32."""
    codes = _tokens(rows, weight.shape[0])
    return lambda: torch.ops.aten._int_mm(codes, weight)


def prepacked(rows: int, weight: Tensor) -> Product:
    """Unsigned codes [rows, K] by the weight [K, N] in oneDNN's own layout; sums in bfloat16, without a zero point."""
    codes = _tokens(rows, weight.shape[0]).view(torch.uint8)
    scale, zero = torch.ones(1), torch.zeros(1, dtype=torch.int32)
    given = (codes, 1.0, 0, _packed(weight), scale, zero, None, 1.0, 0)
    epilogue: tuple[Any, ...] = (torch.bfloat16, "none", [], "")
    return lambda: torch.ops.onednn.qlinear_pointwise.default(*given, *epilogue)


@functools.cache
def prepacks() -> bool:
    """Whether this build of PyTorch can multiply prepacked int8 weights."""
    if not hasattr(torch.ops.onednn, "qlinear_prepack"):
        return False
    try:
        prepacked(1, _codes(16, 16))()
    except (NotImplementedError, RuntimeError):
        return False
    return True


@functools.cache
def _packed(weight: Tensor) -> Tensor:
    found: Tensor = torch.ops.onednn.qlinear_prepack(weight.T.contiguous(), None)
    return found


@functools.cache
def _tokens(rows: int, columns: int) -> Tensor:
    """Codes that linears of one size share, so that they lie in a cache, as those of a model do."""
    return _codes(rows, columns)


WAYS = {PLAIN: plain, PREPACKED: prepacked}


def _codes(rows: int, columns: int) -> Tensor:
    return torch.randint(-127, 128, (rows, columns), dtype=torch.int8)
