"""Insert partition and scatter: gather the tokens of each state before a site, put the results back after it."""

from __future__ import annotations

import dataclasses
import operator
from typing import ClassVar

from starquant_fx.operators import op
from starquant_fx.pass_base import Pass, Preserves
from starquant_fx.passes.insert_token_state import state_node
from starquant_fx.program import Program, note


@dataclasses.dataclass(frozen=True)
class InsertPartition(Pass):
    """Wraps every quantized site in partition and scatter (paper, section 3.2).

    Everything between them works per token, so it commutes with the permutation; the fusion stage may later choose the
    equal form without it.
    """

    name: ClassVar[str] = "insert-partition"
    after: ClassVar[tuple[str, ...]] = ("insert-token-state",)
    before: ClassVar[tuple[str, ...]] = ("insert-centering", "insert-sgat", "insert-quantizers")
    preserves: ClassVar[Preserves] = Preserves.NUMERICALLY

    def run(self, program: Program) -> Program:
        """Inserts one partition a site and one scatter a linear."""
        graph = program.graph
        state = state_node(program)
        for site in program.quantized_sites():
            linears = program.site_nodes(site, "linear")
            source = linears[0].args[0]
            with graph.inserting_before(linears[0]):
                partition = graph.call_function(op("partition"), (source, state))
                parts = [graph.call_function(operator.getitem, (partition, i)) for i in range(3)]
            note(partition, site=site.name, part="partition")
            for node, part in zip(parts, ("tokens", "states", "order"), strict=True):
                note(node, site=site.name, part=part)
            for linear in linears:
                linear.update_arg(0, parts[0])
                arguments = (linear, parts[2], state)
                program.follow(linear, op("scatter"), arguments, site=site.name, part="scatter")
        return program

    def ensures(self, program: Program) -> None:
        """One partition a quantized site."""
        count, sites = len(program.nodes(op("partition"))), len(list(program.quantized_sites()))
        self.expect(
            count == sites, "partitions are missing", where="graph", expected=str(sites), got=count
        )
