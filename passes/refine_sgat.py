"""Refine SGAT: bases, clip factors and bias rows learn together what each block, or the whole model, hands on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import ClassVar

from starquant_fx.calibration.fit_cache import remembered
from starquant_fx.calibration.objectives import LogitDivergence, Objective, block_errors
from starquant_fx.calibration.refinement import Tuned, refine
from starquant_fx.calibration.tac_run import TRANSFORMED_STAGE
from starquant_fx.pass_base import Pass, Preserves
from starquant_fx.program import Program
from starquant_fx.progress import track
from starquant_fx.recipe import LARGEST_SEED

OBJECTIVES = ("model", "block")
INPUTS = ("quantized", "full")


@dataclasses.dataclass(frozen=True)
class RefineSgat(Pass):
    """Goes on where the sites were fitted one by one, with gradients through everything up to the loss.

    With ``objective=model`` the loss is the divergence of masked tokens' logits from full precision's, under masks
    drawn anew for every batch; it needs the memory of training the model. With ``objective=block`` it is the error of
    each block's output, block after block, as FlatQuant has it. Ours, beyond the paper, which fits every site alone.

    Attributes:
        objective: model or block.
        inputs: Of a block: quantized = what the refined blocks before it hand on; full = what full precision does.
        epochs: Passes over the sequences.
        batch: Sequences a step.
        lr: Learning rate, radians an entry, cosine schedule.
        samples: Calibration sequences used at most.
        seed: Seed of order and masks.
    """

    name: ClassVar[str] = "refine-sgat"
    after: ClassVar[tuple[str, ...]] = ("insert-sgat", "insert-quantizers")
    before: ClassVar[tuple[str, ...]] = ("search-clip", "gptq", "fold-sgat")
    preserves: ClassVar[Preserves] = Preserves.NOT
    objective: str = "model"
    inputs: str = "quantized"
    epochs: int = 4
    batch: int = 4
    lr: float = 2e-3
    samples: int = 64
    seed: int = 0

    def check_options(self) -> None:
        """Objective and inputs exist, and the numbers are in range."""
        self.expect_one_of("objective", OBJECTIVES)
        self.expect_one_of("inputs", INPUTS)
        for option, low in (("epochs", 0), ("batch", 1), ("lr", 0), ("samples", 1)):
            self.expect_range(option, low)
        self.expect_range("seed", 0, LARGEST_SEED)

    def requires(self, program: Program) -> None:
        """There is something to estimate from."""
        self.expect_calibration(program)

    def run(self, program: Program) -> Program:
        """Refines the whole model at once, or block after block."""
        if not program.weightless:
            for objective in self._objectives(program):
                self._refine(program, objective)
        program.keep_stage(TRANSFORMED_STAGE)
        return program

    def _objectives(self, program: Program) -> Iterable[Objective]:
        options = (self.samples, self.batch, self.seed)
        if self.objective == "model":
            return [LogitDivergence(program, *options)]
        return track(block_errors(program, *options, self.inputs == "quantized"), "refining blocks")

    def _refine(self, program: Program, objective: Objective) -> None:
        tuned = Tuned.of(objective.span)
        start = {node: program.tensor(node) for node in tuned.nodes()}
        steps = self.epochs * max(1, objective.count // self.batch)
        data = program.calibration
        assert data is not None
        used = {**program.tensors(), "ids": data.batches[0]}
        if data.texts is not None:
            used["texts"] = data.texts[0]
        tensors, figures = remembered(
            program.cache,
            used,
            ["span", objective.span.name, str(self)],
            lambda: refine(tuned, start, objective, steps, self.lr),
        )
        for name, value in tensors.items():
            program.set_tensor(name, value)
        program.findings[objective.span.name] = {f"refined_{k}": v for k, v in figures.items()}
