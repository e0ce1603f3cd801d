"""Fold SGAT: everything between a weight and its linear is computed once, and the codes are packed."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import fx

from starquant_fx.pass_base import Pass, Preserves
from starquant_fx.program import Program, facts, note

WEIGHT_PARTS = ("scale_weight", "turn_weight", "permute_weight", "rotate_weight")
"""Parts of a site that transform a weight."""


@dataclasses.dataclass(frozen=True)
class FoldSgat(Pass):
    """Replaces ``W Q`` and its quantizer by one static packed weight a linear (paper, eq. 12); without SGAT, ``W``."""

    name: ClassVar[str] = "fold-sgat"
    after: ClassVar[tuple[str, ...]] = ("insert-quantizers",)
    preserves: ClassVar[Preserves] = Preserves.BITWISE

    def run(self, program: Program) -> Program:
        """Evaluates the weight chains and stores their results."""
        for site in program.quantized_sites():
            for part, name in (("packed", "packed"), ("weight_scale", "weight_scale")):
                for node in program.site_nodes(site, part):
                    if node.op != "get_attr":  # GPTQ has chosen the codes
                        _fold(program, node, name)
            for linear in program.site_nodes(site, "linear"):
                weight = linear.args[1]
                assert isinstance(weight, fx.Node)
                if facts(weight).get("part") in WEIGHT_PARTS:
                    _fold(program, weight, "weight")
        return program

    def ensures(self, program: Program) -> None:
        """No weight is quantized or rotated at run time."""
        left = [
            n
            for n in program.graph.nodes
            if facts(n).get("part") in ("quantize_weight", *WEIGHT_PARTS)
        ]
        self.expect(
            not left,
            "a weight is still computed",
            where=str(left[:1]),
            expected="constants",
            got=len(left),
        )


def _fold(program: Program, node: fx.Node, name: str) -> None:
    constant = program.constant(f"{facts(node)['of']}.{name}", lambda: program.evaluate(node))
    note(constant, **{**facts(node), "part": name})
    node.replace_all_uses_with(constant)
