"""Correct bias: make the mean output of every token state what it is in full precision, at no cost at run time."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from starquant_fx.calibration.bias_run import correct_biases
from starquant_fx.operators import op
from starquant_fx.pass_base import Pass, Preserves
from starquant_fx.program import Program


@dataclasses.dataclass(frozen=True)
class CorrectBias(Pass):
    """Moves the bias rows of the centring by the mean error of each state's outputs, site after site.

    Bias correction as Nagel et al. 2019 ("Data-free quantization through weight equalization and bias correction",
    section 4.2), estimated on calibration states, one row a token state, with all earlier sites quantized and
    corrected. It takes out the systematic part of the error that piles up over layers and denoising steps. Ours, beyond
    the paper.

    Attributes:
        prior: Tokens' worth of weight of no correction.
    """

    name: ClassVar[str] = "correct-bias"
    after: ClassVar[tuple[str, ...]] = ("insert-centering", "fold-sgat")
    before: ClassVar[tuple[str, ...]] = ("fuse",)
    preserves: ClassVar[Preserves] = Preserves.NOT
    prior: float = 16.0

    def check_options(self) -> None:
        """The prior is no negative number."""
        self.expect_range("prior", 0)

    def requires(self, program: Program) -> None:
        """There are bias rows, and something to estimate from."""
        self.expect(
            bool(program.nodes(op("add_state_bias"))),
            "there are no bias rows",
            where="graph",
            expected="the pass insert-centering before this one",
            got="none",
        )
        self.expect_calibration(program)

    def run(self, program: Program) -> Program:
        """Corrects all sites in one run."""
        if not program.weightless:
            program.module.recompile()
            correct_biases(program, self.prior)
        return program
