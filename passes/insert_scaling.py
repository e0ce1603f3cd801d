"""Insert scaling: divide each input channel by a factor and multiply the weights' columns by it. Exact."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, fx

from starquant_fx.calibration.activations import site_activations, transformed_tokens
from starquant_fx.calibration.scaling import METHODS, awq_scale, smoothquant_scale
from starquant_fx.pass_base import Pass, Preserves
from starquant_fx.program import Program, Site, note

MULTIPLY = torch.ops.aten.mul.Tensor


@dataclasses.dataclass(frozen=True)
class InsertScaling(Pass):
    """Adds ``x / s`` before each site's linears and ``W diag(s)`` on their weights.

    smoothquant (Xiao et al. 2023, eq. 4) takes ``s = max|x|^alpha / max|W|^(1 - alpha)``; awq (Lin et al. 2024, eq. 5)
    takes ``s = mean|x|^alpha`` with the alpha of least output error. We measure that error with the site's own
    activation quantizer, which AWQ, made for weights alone, does not have.

    Attributes:
        method: smoothquant or awq.
        alpha: Migration strength of smoothquant.
        grid: Values of alpha that awq tries.
    """

    name: ClassVar[str] = "insert-scaling"
    after: ClassVar[tuple[str, ...]] = ("assign-roles",)
    before: ClassVar[tuple[str, ...]] = ("insert-sgat", "insert-duquant", "insert-quantizers")
    preserves: ClassVar[Preserves] = Preserves.NUMERICALLY
    method: str = "smoothquant"
    alpha: float = 0.5
    grid: int = 20

    def check_options(self) -> None:
        """The method exists, and the numbers are in range."""
        self.expect_one_of("method", METHODS)
        self.expect_range("alpha", 0, 1)
        self.expect_range("grid", 1)

    def requires(self, program: Program) -> None:
        """There is something to estimate from."""
        self.expect_calibration(program)

    def run(self, program: Program) -> Program:
        """Estimates one vector a site and inserts it."""
        if program.weightless:
            for site in program.quantized_sites():
                self._insert(program, site, torch.ones(site.features))
            return program
        for site, tokens, label in site_activations(program):
            self._insert(program, site, self._scale(program, site, tokens, label))
        return program

    def _scale(self, program: Program, site: Site, tokens: Tensor, label: Tensor) -> Tensor:
        tokens = transformed_tokens(program, site, tokens, label)
        weights = [program.evaluate(n.args[1]) for n in program.site_nodes(site, "linear")]  # type: ignore[arg-type]
        weight = torch.cat(weights).float()
        assert site.options is not None
        if self.method == "smoothquant":
            return smoothquant_scale(tokens, weight, self.alpha)
        scale, alpha = awq_scale(tokens, weight, site.options, self.grid)
        program.findings.setdefault(site.name, {})["alpha"] = alpha
        return scale

    def _insert(self, program: Program, site: Site, scale: Tensor) -> None:
        graph = program.graph
        linears = program.site_nodes(site, "linear")
        source = linears[0].args[0]
        assert isinstance(source, fx.Node)
        dtype = source.meta["val"].dtype
        inverse = program.constant(f"{site.name}.scale_inverse", lambda: (1 / scale).to(dtype))
        # The inverse is what runs, rounded to the activations' dtype; the weights undo exactly that.
        factor = program.constant(f"{site.name}.scale", lambda: 1 / (1 / scale).to(dtype).float())
        with graph.inserting_before(linears[0]):
            scaled = graph.call_function(MULTIPLY, (source, inverse))
        note(scaled, site=site.name, part="scale")
        for linear, name in zip(linears, site.linears, strict=True):
            before = linear.args[1]
            assert isinstance(before, fx.Node)
            with graph.inserting_before(linear):
                wide = graph.call_function(MULTIPLY, (before, factor))
                weight = graph.call_function(
                    torch.ops.aten.to.dtype, (wide, before.meta["val"].dtype)
                )
            note(weight, site=site.name, part="scale_weight", of=name)
            linear.update_arg(0, scaled)
            linear.update_arg(1, weight)
