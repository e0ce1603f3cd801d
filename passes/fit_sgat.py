"""Fit SGAT: learn each site's basis and clip factors from cached activations."""

from __future__ import annotations

import dataclasses
import zlib
from typing import ClassVar

import torch
from torch import Tensor, fx

from starquant_fx.basis import BasisShape
from starquant_fx.calibration.activations import full_precision_parameters, site_activations
from starquant_fx.calibration.basis_fit import FitOptions, SiteProblem, aim_gates, fit_site
from starquant_fx.calibration.tac_run import TRANSFORMED_STAGE
from starquant_fx.kernels import reference
from starquant_fx.pass_base import Pass, Preserves
from starquant_fx.program import Program, Site
from starquant_fx.progress import track


@dataclasses.dataclass(frozen=True)
class FitSgat(Pass):
    """Minimises the error of each site's outputs over calibration tokens of all states (paper, eq. 14-15).

    Attributes:
        epochs: Passes over the tokens; 0 = keep the start.
        batch: Tokens a step (the paper: 4 segments).
        lr: Learning rate, cosine schedule.
        aim: Start the gates where the states differ instead of anywhere.
        seed: Seed of the order of the tokens.
    """

    name: ClassVar[str] = "fit-sgat"
    after: ClassVar[tuple[str, ...]] = ("insert-sgat", "insert-quantizers")
    before: ClassVar[tuple[str, ...]] = ("fold-sgat",)
    preserves: ClassVar[Preserves] = Preserves.NOT
    epochs: int = 15
    batch: int = 1024
    lr: float = 5e-3
    aim: bool = True
    seed: int = 0

    def requires(self, program: Program) -> None:
        """A fit needs calibration data, unless the program has no weights."""
        self.expect_calibration(program)

    def run(self, program: Program) -> Program:
        """Fits site after site."""
        if not program.weightless:
            count = len(list(program.quantized_sites()))
            for site, tokens, label in track(site_activations(program), "fitting SGAT", count):
                self._fit(program, site, tokens, label)
        program.keep_stage(TRANSFORMED_STAGE)
        return program

    def _fit(self, program: Program, site: Site, tokens: Tensor, label: Tensor) -> None:
        rotate = program.site_node(site, "rotate")
        factor_nodes: list[fx.Node] = rotate.args[1]  # type: ignore[assignment]
        factors = [program.tensor(n) for n in factor_nodes]
        problem = _problem(program, site, tokens, label, factors)
        if self.aim:
            factors = aim_gates(problem, factors)
        seed = self.seed + zlib.crc32(site.name.encode())
        fitted = fit_site(problem, factors, FitOptions(self.epochs, self.batch, self.lr, seed))
        for node, factor in zip(factor_nodes, fitted.factors, strict=True):
            program.set_tensor(str(node.target), factor)
        clips = [(n, fitted.clip) for n in program.site_nodes(site, "quantize")]
        clips += zip(
            program.site_nodes(site, "quantize_weight"),
            fitted.clip_weight.split(list(site.outputs)),
            strict=False,
        )
        for quantizer, value in clips:
            if isinstance(clip := quantizer.args[-1], fx.Node):
                program.set_tensor(str(clip.target), value.clone())
        found = program.findings.setdefault(site.name, {})
        found.update(fit_before=fitted.before, fit_after=fitted.after, leakage=fitted.leakage)


def _problem(
    program: Program, site: Site, tokens: Tensor, label: Tensor, factors: list[Tensor]
) -> SiteProblem:
    """Reads the site's problem off the graph."""
    rotate = program.site_node(site, "rotate")
    centers = program.site_nodes(site, "center")
    gates = program.site_nodes(site, "gate")
    if centers:
        tokens = reference.center(tokens, label, program.tensor(centers[0].args[2]))  # type: ignore[arg-type]
    structure = str(rotate.args[2])
    table = torch.ones(program.states, site.features)
    rank = 0
    if gates:
        shared, bounds = gates[0].args[2:4]
        table = reference.gate_table(site.features, shared, bounds).float()  # type: ignore[arg-type]
        rank = (site.features - int(str(shared))) // 2
    weights = [weight for weight, _ in full_precision_parameters(program, site)]
    quantizers = [
        n for part in ("quantize", "quantize_weight") for n in program.site_nodes(site, part)
    ]
    clip = any(isinstance(n.args[-1], fx.Node) for n in quantizers)
    if structure == "dense":
        left, right = site.features, 1
    elif structure == "block":
        left, right = factors[0].shape[0], factors[0].shape[1]
    else:
        left, right = factors[-2].shape[0], factors[-1].shape[0]
    assert site.options is not None
    shape = BasisShape(structure, site.features, left, right, rank)
    return SiteProblem(tokens, label, torch.cat(weights), shape, table, site.options, clip)
