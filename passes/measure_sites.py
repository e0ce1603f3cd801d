"""Measure sites: how far each quantized site's output is from the original's, on calibration states."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, fx
from torch.nn.functional import linear

from starquant_fx.calibration.activations import full_precision_parameters, site_activations
from starquant_fx.pass_base import Pass, Preserves
from starquant_fx.program import Program, Site, facts


@dataclasses.dataclass(frozen=True)
class MeasureSites(Pass):
    """Reports the relative error ||y - y'||^2 / ||y||^2 of every site's outputs given full-precision inputs.

    TAC is not part of it: it corrects errors of the site's input, which is exact here.
    """

    name: ClassVar[str] = "measure-sites"
    after: ClassVar[tuple[str, ...]] = ("fold-sgat",)
    before: ClassVar[tuple[str, ...]] = ("insert-tac", "fuse")
    preserves: ClassVar[Preserves] = Preserves.BITWISE

    def run(self, program: Program) -> Program:
        """Fills ``findings[site]["error"]``."""
        if program.calibration is None or program.weightless:
            return program
        for site, tokens, label in site_activations(program):
            parameters = full_precision_parameters(program, site)
            full = torch.cat([linear(tokens, weight, bias) for weight, bias in parameters], -1)
            got = torch.cat(list(_quantized(program, site, tokens, label)), -1)
            error = (full - got).pow(2).sum() / full.pow(2).sum().clamp(min=1e-30)
            program.findings.setdefault(site.name, {})["error"] = float(error)
        return program


def _quantized(program: Program, site: Site, tokens: Tensor, label: Tensor) -> Iterator[Tensor]:
    """Outputs of the site's linears as the program computes them now, before they are scattered."""
    source = next(n for n in program.graph.nodes if facts(n).get("feeds") == site.name)
    tokens = tokens.to(source.meta["val"].dtype)
    known: dict[fx.Node, Tensor] = {source: tokens}
    for part, value in (("tokens", tokens), ("states", label)):
        known.update(dict.fromkeys(program.site_nodes(site, part), value))
    ends = program.site_nodes(site, "state_bias") or program.site_nodes(site, "linear")
    for end in ends:
        yield program.evaluate(end, known).float()
