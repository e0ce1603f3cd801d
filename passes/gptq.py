"""GPTQ: choose the weight codes of each site by its inputs' second moments instead of rounding to nearest."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, fx

from starquant_fx.calibration.activations import (
    site_activations,
    token_labels,
    transformed_tokens,
)
from starquant_fx.calibration.gptq import Feedback, feedback, gptq
from starquant_fx.calibration.stepwise import quantized_inputs
from starquant_fx.kernels import reference
from starquant_fx.pass_base import Pass, Preserves
from starquant_fx.program import Program, Site, facts, note
from starquant_fx.progress import track
from starquant_fx.recipe import FULL_PRECISION

SMALLEST = 1e-9
"""Of the damping and of the weights: below it the Hessian may not be invertible."""


@dataclasses.dataclass(frozen=True)
class Gptq(Pass):
    """Replaces the weight quantizers by packed codes from GPTQ, on the transformed and gated inputs of all states.

    With weights other than 1 for the states it is CGQ's certainty-guided form (DLLMQuant, Xu et al. 2025). We know
    it by the constants that others report, 1 for masked and 0.7 for unmasked tokens; its weighting of masked tokens
    by confidence is left out.

    Attributes:
        inputs: quantized: what each site reads once the sites before it are quantized, as GPTQ's implementations do
            it. full: what it reads in full precision.
        damping: Share of the mean diagonal of the Hessian that is added to it.
        order: Columns of large second moment first.
        masked: Weight of masked tokens in the Hessian.
        unmasked: Weight of unmasked tokens.
    """

    name: ClassVar[str] = "gptq"
    after: ClassVar[tuple[str, ...]] = ("insert-quantizers",)
    before: ClassVar[tuple[str, ...]] = ("fold-sgat",)
    preserves: ClassVar[Preserves] = Preserves.NOT
    inputs: str = "quantized"
    damping: float = 0.01
    order: bool = True
    masked: float = 1.0
    unmasked: float = 1.0

    def check_options(self) -> None:
        """The numbers are in range."""
        self.expect_one_of("inputs", ("quantized", "full"))
        for option in ("damping", "masked", "unmasked"):
            self.expect_range(option, SMALLEST)

    def requires(self, program: Program) -> None:
        """There is something to estimate from."""
        self.expect_calibration(program)

    def run(self, program: Program) -> Program:
        """Quantizes the weights site by site."""
        if program.weightless:
            for site in program.quantized_sites():
                self._quantize(program, site, None)
            return program
        label = token_labels(program)
        given: Iterable[tuple[Site, Tensor]] = (
            ((site, tokens) for site, tokens, _ in site_activations(program))
            if self.inputs == "full"
            else quantized_inputs(program)
        )
        for site, tokens in track(given, "GPTQ", len(list(program.quantized_sites()))):
            assert site.options is not None
            if site.options.weight_bits != FULL_PRECISION:
                certainty = torch.where(label % 2 == 1, self.masked, self.unmasked)
                x = transformed_tokens(program, site, tokens, label)
                found = feedback(x, certainty, self.damping, self.order)
                self._quantize(program, site, found)
        return program

    def _quantize(self, program: Program, site: Site, found: Feedback | None) -> None:
        """Puts the constants ``packed`` and ``weight_scale`` in the place of each weight's quantizer."""
        for quantizer in program.site_nodes(site, "quantize_weight"):
            source, bits, clip = quantizer.args
            assert isinstance(source, fx.Node)
            assert isinstance(bits, int)
            name = facts(quantizer)["of"]
            codes, scale = self._codes(program, source, bits, clip, found)
            values = {"packed": reference.pack(codes, bits), "weight_scale": scale}
            for part, value in values.items():
                (old,) = (n for n in program.site_nodes(site, part) if facts(n)["of"] == name)
                new = program.constant(f"{name}.{part}", value.clone)
                note(new, **{**facts(old), "made_from": (old.name,)})
                old.replace_all_uses_with(new)

    def _codes(
        self, program: Program, source: fx.Node, bits: int, clip: object, found: Feedback | None
    ) -> tuple[Tensor, Tensor]:
        """Codes [n, d] and scales [n] of one weight; empty ones where there are no weights."""
        if found is None:
            n, features = source.meta["val"].shape
            with program.fake_mode:
                return torch.empty(n, features, dtype=torch.int8), torch.empty(n)
        weight = program.evaluate(source).float()
        factors = program.tensor(clip) if isinstance(clip, fx.Node) else None
        scale = reference.weight_scale(weight, bits, factors)
        return gptq(weight, found, scale, bits), scale
