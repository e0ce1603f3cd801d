"""The low-rank branch as the Triton kernels take it: coefficients of all states side by side.

``tile_prepare`` writes a token's coefficients into the columns of its state and zeros into the others, so that the
branch is one product with the images of all states below each other.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from starquant_fx.lowering.matching import arguments_of, become, tensors_of
from starquant_fx.lowering.tables import Tables
from starquant_fx.operators import op

aten = torch.ops.aten
MULTIPLE = 16
"""Columns come in multiples of it, as tensor cores read them."""


def columns(directions: Tensor | None) -> int:
    """Those of all states' directions [S, d, k], padded as ``padded`` does it; 0 without a branch."""
    if directions is None:
        return 0
    states, _, rank = directions.shape
    return states * _padded_rank(states, rank)


def padded(directions: Tensor | None) -> Tensor | None:
    """Directions [S, d, k] with columns of zeros, as many as make S k a multiple of ``MULTIPLE``."""
    if directions is None:
        return None
    states, _, rank = directions.shape
    return torch.nn.functional.pad(directions, (0, _padded_rank(states, rank) - rank))


def is_reference(coefficients: fx.Node) -> bool:
    """Whether a branch's coefficients are the reference's, of each token's own state, so that its product is too."""
    return bool(coefficients.args) and bool(
        arguments_of(coefficients.args[0], op("split_low_rank"))
    )


def flat_image(image: Tensor, dtype: torch.dtype) -> Tensor:
    """Images [S, k, n] below each other: [S k', n], with the rows that ``padded`` adds."""
    states, rank, _ = image.shape
    rows = torch.nn.functional.pad(image, (0, 0, 0, _padded_rank(states, rank) - rank))
    return rows.flatten(0, 1).to(dtype)


def multiply_branches(module: fx.GraphModule, tables: Tables) -> None:
    """Makes products of the branches that no linear's kernel took."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target == op("add_low_rank") and not is_reference(node.args[2]):
            y, _, coefficients, image = node.args
            dtype, name = node.meta["val"].dtype, str(image.target)
            tensor = tensors_of(module, image)
            flat = tables.read(node, name, "flat", lambda t=tensor, d=dtype: flat_image(t, d))  # type: ignore[misc]
            with graph.inserting_before(node):
                product = graph.call_function(aten.matmul.default, (coefficients, flat))
            become(node, aten.add.Tensor, y, product)


def _padded_rank(states: int, rank: int) -> int:
    while states * rank % MULTIPLE:
        rank += 1
    return rank
