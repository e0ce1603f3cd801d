"""Insert DuQuant's transform: block rotation, zigzag permutation, block rotation, aimed at the outliers. Exact."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from starquant_fx.basis import largest_divisor
from starquant_fx.calibration.activations import site_activations, transformed_tokens
from starquant_fx.calibration.duquant import outlier_rotation, zigzag
from starquant_fx.devices import Draws
from starquant_fx.operators import op
from starquant_fx.pass_base import Pass, Preserves
from starquant_fx.program import Program, Site, note
from starquant_fx.recipe import LARGEST_SEED

SELECT = torch.ops.aten.index_select.default


@dataclasses.dataclass(frozen=True)
class InsertDuquant(Pass):
    """Adds ``x R1 P R2`` before each site's linears and the same on their weights (Lin et al. 2024, eq. 5-7).

    Attributes:
        block: Block size of the rotations; the largest divisor of d not above it is taken.
        steps: Greedy steps of each rotation (the paper: 256).
        seed: Seed of the random parts of the rotations.
    """

    name: ClassVar[str] = "insert-duquant"
    after: ClassVar[tuple[str, ...]] = ("assign-roles",)
    before: ClassVar[tuple[str, ...]] = ("insert-quantizers",)
    preserves: ClassVar[Preserves] = Preserves.NUMERICALLY
    block: int = 128
    steps: int = 256
    seed: int = 0

    def check_options(self) -> None:
        """The numbers are in range."""
        self.expect_range("block", 1)
        self.expect_range("steps", 1)
        self.expect_range("seed", 0, LARGEST_SEED)

    def requires(self, program: Program) -> None:
        """There is something to estimate from."""
        self.expect_calibration(program)

    def run(self, program: Program) -> Program:
        """Estimates and inserts both rotations and the permutation of every site."""
        if program.weightless:
            for site in program.quantized_sites():
                size = largest_divisor(site.features, self.block)
                empty = torch.empty(site.features // size, size, size)
                self._insert(program, site, empty, torch.arange(site.features), empty)
            return program
        for site, tokens, label in site_activations(program):
            x = transformed_tokens(program, site, tokens, label)
            size = largest_divisor(site.features, self.block)
            seed = self.seed + zlib.crc32(site.name.encode())
            draws = Draws(seed)
            first = outlier_rotation(x, size, self.steps, draws)
            x = torch.einsum("tbi,bij->tbj", x.unflatten(-1, (-1, size)), first).flatten(1)
            order = zigzag(x, size)
            second = outlier_rotation(x[:, order], size, self.steps, draws)
            self._insert(program, site, first, order, second)
        return program

    def _insert(
        self, program: Program, site: Site, first: Tensor, order: Tensor, second: Tensor
    ) -> None:
        factors = [
            program.constant(f"{site.name}.{name}", value.clone)
            for name, value in (
                ("rotation_1", first),
                ("permutation", order),
                ("rotation_2", second),
            )
        ]
        linears = program.site_nodes(site, "linear")
        source = linears[0].args[0]
        assert isinstance(source, fx.Node)
        turned = _chain(program, linears[0], source, factors, ("turn", "permute", "rotate"), site)
        for linear, name in zip(linears, site.linears, strict=True):
            weight = linear.args[1]
            assert isinstance(weight, fx.Node)
            parts = ("turn_weight", "permute_weight", "rotate_weight")
            linear.update_arg(0, turned)
            linear.update_arg(1, _chain(program, linear, weight, factors, parts, site, of=name))


def _chain(
    program: Program,
    before: fx.Node,
    x: fx.Node,
    factors: list[fx.Node],
    parts: tuple[str, str, str],
    site: Site,
    **entries: str,
) -> fx.Node:
    """Inserts rotation, permutation and rotation of x's last dimension; returns the last node."""
    first, order, second = factors
    calls: tuple[tuple[Any, tuple[Any, ...]], ...] = (
        (op("rotate"), ([first], "block")),
        (SELECT, (-1, order)),
        (op("rotate"), ([second], "block")),
    )
    for (target, arguments), part in zip(calls, parts, strict=True):
        with program.graph.inserting_before(before):
            x = program.graph.call_function(target, (x, *arguments))
        note(x, site=site.name, part=part, **entries)
    return x
