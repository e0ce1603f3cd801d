"""Insert centring: subtract the mean of the token's state before a site, add its image after it. Exact."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import ClassVar

import torch

from starquant_fx.operators import op
from starquant_fx.pass_base import Pass, Preserves
from starquant_fx.program import Program, Site, note


@dataclasses.dataclass(frozen=True)
class InsertCentering(Pass):
    """Adds ``(x - mu_z)`` before each site's linears and ``+ mu_z W^T`` after them, one row a state.

    In real arithmetic nothing changes; what the quantizer sees loses the offset that all tokens of a state share. The
    means start at zero and are set by ``estimate-means``.

    Attributes:
        sites: Roles of the sites that are centred, separated by "+"; "all" = every site but the head's.
    """

    name: ClassVar[str] = "insert-centering"
    after: ClassVar[tuple[str, ...]] = ("insert-partition",)
    before: ClassVar[tuple[str, ...]] = (
        "insert-low-rank",
        "insert-scaling",
        "insert-duquant",
        "insert-sgat",
        "insert-quantizers",
    )
    preserves: ClassVar[Preserves] = Preserves.NUMERICALLY
    sites: str = "all"

    def check_options(self) -> None:
        """The roles exist."""
        self.expect_roles("sites")

    def run(self, program: Program) -> Program:
        """Inserts one ``center`` a site and one ``add_state_bias`` a linear."""
        graph, states = program.graph, program.states
        for site in self._chosen(program):
            tokens, label = program.site_node(site, "tokens"), program.site_node(site, "states")
            linears = program.site_nodes(site, "linear")
            means = program.constant(
                f"{site.name}.means", partial(torch.zeros, states, site.features)
            )
            with graph.inserting_before(linears[0]):
                centered = graph.call_function(op("center"), (tokens, label, means))
            note(centered, site=site.name, part="center")
            for linear, name, n in zip(linears, site.linears, site.outputs, strict=True):
                linear.update_arg(0, centered)
                bias = program.constant(f"{name}.state_bias", partial(torch.zeros, states, n))
                entries = {"site": site.name, "part": "state_bias", "of": name}
                program.follow(linear, op("add_state_bias"), (linear, label, bias), **entries)
        return program

    def ensures(self, program: Program) -> None:
        """One ``center`` a chosen site."""
        count, sites = len(program.nodes(op("center"))), len(self._chosen(program))
        self.expect(
            count == sites, "centring is missing", where="graph", expected=str(sites), got=count
        )

    def _chosen(self, program: Program) -> list[Site]:
        return [site for site in program.quantized_sites() if site.among(self.sites)]
