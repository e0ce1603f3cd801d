"""Measure sites: how far each quantized site's output is from the original's, on calibration states."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import linear

from starquant_fx.calibration.activations import (
    at_site,
    full_precision_parameters,
    site_activations,
)
from starquant_fx.pass_base import Pass, Preserves
from starquant_fx.program import Program, Site


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
    known = at_site(program, site, tokens, label)
    for end in program.site_ends(site):
        yield program.evaluate(end, known).float()
