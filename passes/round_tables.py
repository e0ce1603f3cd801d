"""Round tables: bases and low-rank branches are kept in bfloat16, which they are multiplied in."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import fx

from starquant_fx.operators import op
from starquant_fx.pass_base import Pass, Preserves
from starquant_fx.program import Program

TABLES = {"rotate": 1, "split_low_rank": 2, "add_low_rank": 3}
"""Operators that multiply activations by tables, and which argument holds these."""


@dataclasses.dataclass(frozen=True)
class RoundTables(Pass):
    """Rounds the factors of bases, the directions of branches and their images to bfloat16: half the memory.

    Ours; the paper does not say in what its transforms are kept. The weights were folded with the bases as they were
    fitted. What comes later (measured errors, TAC) sees the rounded tables.
    """

    name: ClassVar[str] = "round-tables"
    after: ClassVar[tuple[str, ...]] = ("fold-sgat",)
    before: ClassVar[tuple[str, ...]] = ("measure-sites", "insert-tac", "fuse")
    preserves: ClassVar[Preserves] = Preserves.NOT

    def run(self, program: Program) -> Program:
        """Rounds the tables."""
        for table in _tables(program):
            program.set_tensor(str(table.target), program.tensor(table).to(torch.bfloat16))
        return program

    def ensures(self, program: Program) -> None:
        """No table is wider."""
        wide = [t for t in _tables(program) if program.tensor(t).dtype != torch.bfloat16]
        self.expect(
            not wide,
            "a table is not rounded",
            where=str(wide[:1]),
            expected="bfloat16",
            got=len(wide),
        )


def _tables(program: Program) -> Iterator[fx.Node]:
    """The nodes that read tables."""
    for name, position in TABLES.items():
        for node in program.nodes(op(name)):
            held = node.args[position]
            yield from (
                n
                for n in (held if isinstance(held, (list, tuple)) else [held])
                if isinstance(n, fx.Node)
            )
