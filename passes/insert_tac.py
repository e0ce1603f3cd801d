"""Insert TAC: a block-diagonal affine correction before each attention output projection, estimated layer by layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import fx

from starquant_fx.basis import largest_divisor
from starquant_fx.calibration.tac import ESTIMATORS, TacOptions
from starquant_fx.calibration.tac_run import REFERENCES, estimate_corrections
from starquant_fx.operators import op
from starquant_fx.pass_base import Pass, Preserves
from starquant_fx.program import Program, Site, facts, note

GROUPS: dict[str, Callable[[int], int]] = {
    "all": lambda state: 0,
    "state": lambda state: state % 2,
    "ratio": lambda state: state // 2,
    "both": lambda state: state,
}
"""Which map a token state takes, by the name of the grouping."""
AFTER_TAC = ("center", "split", "scale", "turn", "rotate", "quantize", "linear")
"""Parts of a site of which the first in the graph reads what TAC corrects."""


@dataclasses.dataclass(frozen=True)
class InsertTac(Pass):
    """Adds ``y = x M^T + b`` before o_proj's transform and estimates M, b with the earlier layers' TACs active.

    The reference activations are those of the original model or of the transformed model with its quantizers off (the
    paper's); the correction's effect against both is reported.

    Attributes:
        block: g; the largest divisor of d not above it is taken.
        damping: lambda, share of the mean variance added to the quantized covariance; a guess, as the next three.
        eps: Added on top.
        smooth: alpha, how far singular values move towards their mean.
        shrink: beta, how far the matrix moves towards the identity.
        estimator: covariance (the paper's) or ridge.
        reference: transformed (the paper's) or original.
        samples: Calibration sequences used at most (the paper: 64).
        per: all (the paper's): one map for all steps; state, ratio or both: one for each token state, for each
            mask-ratio bucket, or for each of both together.
        scaled: Estimate in units of each channel's own deviation; the paper does not.
        tune: Choose damping, smooth and shrink of every site by the error on held-out sequences.
    """

    name: ClassVar[str] = "insert-tac"
    after: ClassVar[tuple[str, ...]] = ("fold-sgat",)
    before: ClassVar[tuple[str, ...]] = ("fuse",)
    preserves: ClassVar[Preserves] = Preserves.NOT
    block: int = 16
    damping: float = 0.01
    eps: float = 1e-6
    smooth: float = 0.1
    shrink: float = 0.2
    estimator: str = "covariance"
    reference: str = "transformed"
    samples: int = 64
    per: str = "all"
    scaled: bool = True
    tune: bool = False

    def check_options(self) -> None:
        """Estimator and reference exist, and the numbers are in range."""
        self.expect_one_of("estimator", ESTIMATORS)
        self.expect_one_of("reference", REFERENCES)
        self.expect_one_of("per", GROUPS)
        self.expect_range("block", 1)
        self.expect_range("samples", 1)
        for option, high in (("damping", None), ("eps", None), ("smooth", 1), ("shrink", 1)):
            self.expect_range(option, 0, high)

    def requires(self, program: Program) -> None:
        """There is an attention output projection to correct, and a reference to estimate from."""
        sites = [s for s in program.quantized_sites() if "o" in s.roles]
        self.expect(
            bool(sites),
            "no quantized output projection",
            where="graph",
            expected="role o",
            got="none",
        )
        self.expect(
            self.per == "all" or bool(program.nodes(op("partition"))),
            "maps by token state need the states of a site's tokens",
            where="per",
            expected="the pass insert-partition before this one, or per=all",
            got=self.per,
        )
        self.expect_calibration(program)

    def run(self, program: Program) -> Program:
        """Inserts the corrections as identities, then estimates them in graph order."""
        sites = [s for s in program.quantized_sites() if "o" in s.roles]
        for site in sites:
            self._insert(program, site)
        if not program.weightless:
            program.module.recompile()
            options = TacOptions(
                self.damping, self.eps, self.smooth, self.shrink, self.estimator, self.scaled
            )
            estimate_corrections(program, sites, options, self.reference, self.samples, self.tune)
        return program

    def _insert(self, program: Program, site: Site) -> None:
        graph = program.graph
        g = largest_divisor(site.features, self.block)
        blocks = site.features // g
        index = [GROUPS[self.per](state) for state in range(program.states)]
        maps = [] if self.per == "all" else [max(index) + 1]
        matrix = program.constant(
            f"{site.name}.tac_matrix", lambda: torch.eye(g).repeat(*maps, blocks, 1, 1)
        )
        bias = program.constant(f"{site.name}.tac_bias", lambda: torch.zeros(*maps, site.features))
        first = next(
            n
            for n in graph.nodes
            if facts(n).get("site") == site.name and facts(n).get("part") in AFTER_TAC
        )
        source = first.args[0]
        assert isinstance(source, fx.Node)
        target: Any = op("compensate")
        arguments: tuple[Any, ...] = (source, matrix, bias)
        if maps:
            label = program.site_node(site, "states")
            target, arguments = op("compensate_by_state"), (source, label, index, matrix, bias)
        with graph.inserting_before(first):
            corrected = graph.call_function(target, arguments)
        source.replace_all_uses_with(
            corrected,
            delete_user_cb=lambda user: (
                facts(user).get("site") == site.name and user is not corrected
            ),
        )
        note(corrected, site=site.name, part="tac")
