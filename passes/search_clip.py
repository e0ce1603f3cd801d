"""Search clip: choose clip factors on a grid, without gradients and for any transform."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, fx

from starquant_fx.calibration.activations import site_activations, transformed_tokens
from starquant_fx.calibration.clipping import activation_clip, weight_clip
from starquant_fx.pass_base import Pass, Preserves
from starquant_fx.program import Program, Site


@dataclasses.dataclass(frozen=True)
class SearchClip(Pass):
    """Sets the clip factors that ``insert-quantizers{clip=True}`` made: per output channel, then per site.

    Weights: the factor of least output error on the site's inputs, as AWQ and GPTQ's implementations search it.
    Activations: one factor for minimum and maximum, of least output error with the weights so quantized.

    Attributes:
        grid: Factors tried, evenly spaced from ``lowest`` to 1.
        lowest: Smallest factor tried.
    """

    name: ClassVar[str] = "search-clip"
    after: ClassVar[tuple[str, ...]] = ("insert-quantizers",)
    before: ClassVar[tuple[str, ...]] = ("gptq", "fold-sgat")
    preserves: ClassVar[Preserves] = Preserves.NOT
    grid: int = 20
    lowest: float = 0.5

    def check_options(self) -> None:
        """The grid has two factors at least, in (0, 1]."""
        self.expect_range("grid", 2)
        self.expect_range("lowest", 0.01, 1)

    def requires(self, program: Program) -> None:
        """The quantizers have clip factors, and there is something to estimate from."""
        for site in program.quantized_sites():
            for part in ("quantize", "quantize_weight"):
                for node in program.site_nodes(site, part):
                    self.expect(
                        isinstance(node.args[-1], fx.Node),
                        "the quantizers have no clip factors",
                        where=site.name,
                        expected="insert-quantizers{clip=True}",
                        got="insert-quantizers",
                    )
        self.expect_calibration(program)

    def run(self, program: Program) -> Program:
        """Searches site by site."""
        if not program.weightless:
            factors = torch.linspace(self.lowest, 1.0, self.grid)
            for site, tokens, label in site_activations(program):
                x = transformed_tokens(program, site, tokens, label)
                _search(program, site, x, factors)
        return program


def _search(program: Program, site: Site, x: Tensor, factors: Tensor) -> None:
    """Sets the clip factors of one site."""
    assert site.options is not None
    second = x.T @ x / x.shape[0]
    weights, chosen = [], []
    for quantizer in program.site_nodes(site, "quantize_weight"):
        source, bits, clip = quantizer.args
        assert isinstance(source, fx.Node)
        assert isinstance(clip, fx.Node)
        weight = program.evaluate(source).float()
        found = weight_clip(weight, second, int(str(bits)), factors)
        program.set_tensor(str(clip.target), found)
        weights.append(weight)
        chosen.append(found)
    if not weights:
        weights = [
            program.evaluate(n.args[1]).float()  # type: ignore[arg-type]
            for n in program.site_nodes(site, "linear")
        ]
    for quantizer in program.site_nodes(site, "quantize"):
        clip = quantizer.args[-1]
        assert isinstance(clip, fx.Node)
        clips = torch.cat(chosen) if chosen else None
        found = activation_clip(x, torch.cat(weights), site.options, clips, factors)
        program.set_tensor(str(clip.target), found)
