"""Insert SGAT: one orthogonal basis a site, gates by token state, the same basis on the weights."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from starquant_fx.basis import STARTS, STRUCTURES, BasisShape, start_factors
from starquant_fx.devices import Draws
from starquant_fx.operators import op
from starquant_fx.pass_base import Pass, Preserves
from starquant_fx.program import Program, Site, note
from starquant_fx.recipe import LARGEST_SEED

LARGEST_SLICE = 16
"""A slice that rounding makes larger than d / 16 is too much to gate."""


@dataclasses.dataclass(frozen=True)
class InsertSgat(Pass):
    """Adds ``x Q G_z`` before each site's linears and ``W Q`` on their weights (paper, eq. 11-13), but not the head's.

    Attributes:
        structure: Of the basis: dense, kronecker, block or hadamard.
        size: First Kronecker factor, or block size (the largest divisor of d not above it); 0 = balanced.
        rank: Coordinates r of each state's own subspace, rounded up to whole slices; 0 = no gates.
        gated: Roles of the sites that get gates, separated by "+"; "all" = every site.
        start: gaussian (the paper's) or hadamard.
        seed: Seed of the start.
    """

    name: ClassVar[str] = "insert-sgat"
    after: ClassVar[tuple[str, ...]] = ("assign-roles",)
    before: ClassVar[tuple[str, ...]] = ("insert-quantizers",)
    preserves: ClassVar[Preserves] = Preserves.NOT
    structure: str = "kronecker"
    size: int = 0
    rank: int = 0
    gated: str = "all"
    start: str = "hadamard"
    seed: int = 0

    def run(self, program: Program) -> Program:
        """Inserts the basis and, for r > 0, the gates."""
        for site in self._sites(program):
            self._insert(program, site)
        return program

    def _sites(self, program: Program) -> list[Site]:
        return [site for site in program.quantized_sites() if site.among("all")]

    def check_options(self) -> None:
        """Structure, start and roles exist, and the numbers are in range."""
        self.expect_one_of("structure", STRUCTURES)
        self.expect_one_of("start", STARTS)
        self.expect_roles("gated")
        self.expect_range("size", 0)
        self.expect_range("rank", 0)
        self.expect_range("seed", 0, LARGEST_SEED)

    def requires(self, program: Program) -> None:
        """Gates have states to go by."""
        self.expect(
            not self.rank
            or all(program.site_nodes(site, "partition") for site in self._sites(program)),
            "gates need the states of a site's tokens",
            where="rank",
            expected="the pass insert-partition before this one",
            got="no partition",
        )

    def _shape(self, program: Program, site: Site) -> BasisShape:
        """The site's basis; gates are left out where one slice would take too much of it."""
        slices = BasisShape.choose(self.structure, site.features, self.size, 0)
        wanted = self.rank if site.among(self.gated) else 0
        if 0 < wanted < slices.slice_size and slices.slice_size > site.features // LARGEST_SLICE:
            text = f"{site.name}: no gates, one slice is {slices.slice_size} of {site.features}"
            program.findings.setdefault("notes", {})[site.name] = text
            return slices
        return BasisShape.choose(self.structure, site.features, self.size, wanted)

    def _insert(self, program: Program, site: Site) -> None:
        graph = program.graph
        shape = self._shape(program, site)
        program.findings.setdefault(site.name, {}).update(transform=str(shape), gates=shape.rank)
        linears = program.site_nodes(site, "linear")
        tokens = linears[0].args[0]
        draws = Draws(self.seed + zlib.crc32(site.name.encode()))
        makers: list[Callable[[], Tensor]] = (
            [partial(torch.empty, size) for size in shape.factor_shapes()]
            if program.weightless
            else [factor.clone for factor in start_factors(shape, draws, self.start)]
        )
        factors = [
            program.constant(f"{site.name}.basis_{i}", make) for i, make in enumerate(makers)
        ]
        with graph.inserting_before(linears[0]):
            rotated = graph.call_function(op("rotate"), (tokens, factors, self.structure))
            note(rotated, site=site.name, part="rotate")
            if shape.rank:
                label = program.site_node(site, "states")
                bounds = shape.bounds(program.states)
                rotated = graph.call_function(op("gate"), (rotated, label, shape.shared, bounds))
                note(rotated, site=site.name, part="gate")
        for linear, name in zip(linears, site.linears, strict=True):
            with graph.inserting_before(linear):
                weight = graph.call_function(
                    op("rotate"), (linear.args[1], factors, self.structure)
                )
            note(weight, site=site.name, part="rotate_weight", of=name)
            linear.update_arg(0, rotated)
            linear.update_arg(1, weight)

    def ensures(self, program: Program) -> None:
        """One basis a site on the activations and one a linear on the weights."""
        wanted = sum(1 + len(s.linears) for s in self._sites(program))
        got = len(program.nodes(op("rotate")))
        self.expect(
            got == wanted, "bases are missing", where="graph", expected=str(wanted), got=got
        )
