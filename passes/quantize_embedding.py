"""Quantize embedding: the token embedding is kept in eight bits; a lookup restores the rows that it reads."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import fx

from starquant_fx.kernels.reference import quantize_weight, weight_scale
from starquant_fx.pass_base import Pass, Preserves
from starquant_fx.program import Program

aten = torch.ops.aten
EMBEDDING = aten.embedding.default


@dataclasses.dataclass(frozen=True)
class QuantizeEmbedding(Pass):
    """Keeps the rows of the token embedding as int8 codes with a scale each: half of bfloat16's memory.

    Ours; the paper quantizes the blocks only. Codes are symmetric, to the nearest, by each row's largest value. An
    embedding that a linear reads too (a tied head in full precision) stays, because nothing would be saved.
    """

    name: ClassVar[str] = "quantize-embedding"
    after: ClassVar[tuple[str, ...]] = ("fold-sgat",)
    before: ClassVar[tuple[str, ...]] = ("measure-sites", "insert-tac", "fuse")
    preserves: ClassVar[Preserves] = Preserves.NOT

    def run(self, program: Program) -> Program:
        """Replaces the lookups of token ids."""
        for node in program.nodes(EMBEDDING):
            weight, ids = node.args[:2]
            assert isinstance(weight, fx.Node)
            assert isinstance(ids, fx.Node)
            if ids.op != "placeholder":  # of positions or types
                continue
            if any(user.target != EMBEDDING for user in weight.users):
                text = f"{weight.target}: not quantized, a linear reads it too"
                program.findings.setdefault("notes", {})[str(weight.target)] = text
            else:
                node.replace_all_uses_with(_restored(program, node, weight, ids))
        return program


def _restored(program: Program, node: fx.Node, weight: fx.Node, ids: fx.Node) -> fx.Node:
    """Inserts the lookup of codes and scales before a lookup of the weight; returns their product."""
    graph, dtype = program.graph, node.meta["val"].dtype
    tables = [
        program.constant(
            f"{weight.target}.codes", lambda: quantize_weight(program.tensor(weight), 8, None)[0]
        ),
        program.constant(
            f"{weight.target}.scale", lambda: weight_scale(program.tensor(weight), 8, None)[:, None]
        ),
    ]
    with graph.inserting_before(node):
        codes, scale = (graph.call_function(EMBEDDING, (table, ids)) for table in tables)
        product = graph.call_function(aten.mul.Tensor, (codes, scale))  # float32
        if dtype == torch.float32:
            return product
        return graph.call_function(aten._to_copy.default, (product,), {"dtype": dtype})
