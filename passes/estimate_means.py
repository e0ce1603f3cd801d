"""Estimate means: set the means of the centring from calibration states."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, fx

from starquant_fx.calibration.activations import (
    full_precision_parameters,
    note_missing_states,
    site_activations,
    token_labels,
)
from starquant_fx.pass_base import Pass, Preserves
from starquant_fx.program import Program


@dataclasses.dataclass(frozen=True)
class EstimateMeans(Pass):
    """Sets ``mu_z`` of every site to the mean of the calibration tokens of state z, and the bias rows to ``mu_z W^T``.

    Attributes:
        prior: Tokens' worth of weight of the mean over all states, so that a rarely seen state borrows from it.
    """

    name: ClassVar[str] = "estimate-means"
    after: ClassVar[tuple[str, ...]] = ("insert-centering",)
    before: ClassVar[tuple[str, ...]] = (
        "insert-low-rank",
        "insert-scaling",
        "insert-duquant",
        "insert-sgat",
        "insert-quantizers",
    )
    preserves: ClassVar[Preserves] = Preserves.NUMERICALLY
    prior: float = 16.0

    def check_options(self) -> None:
        """The prior is no negative number."""
        self.expect_range("prior", 0)

    def run(self, program: Program) -> Program:
        """Writes the means and bias rows into the program."""
        if program.calibration is None or program.weightless:
            return program
        note_missing_states(program, token_labels(program))
        for site, tokens, label in site_activations(program):
            if not program.site_nodes(site, "center"):
                continue
            means = state_means(tokens, label, program.states, self.prior)
            # What is subtracted is rounded to the activations' dtype, so its image must be of the rounded means.
            means = means.to(program.site_node(site, "tokens").meta["val"].dtype).float()
            center = program.site_node(site, "center").args[2]
            assert isinstance(center, fx.Node)
            program.set_tensor(str(center.target), means)
            weights = full_precision_parameters(program, site)
            for (weight, _), bias in zip(
                weights, program.site_nodes(site, "state_bias"), strict=True
            ):
                program.set_tensor(str(bias.args[2].target), means @ weight.T)  # type: ignore[union-attr]
        return program


def state_means(tokens: Tensor, label: Tensor, states: int, prior: float) -> Tensor:
    """Means per state, shrunk towards the mean over all states by ``prior`` tokens.

    Args:
        tokens: [N, d].
        label: [N] states.
        states: Number of states S.
        prior: Weight of the overall mean, in tokens.

    Returns:
        [S, d] float32.
    """
    wide = tokens.float()
    sums = torch.zeros(states, wide.shape[1]).index_add_(0, label, wide)
    counts = torch.bincount(label, minlength=states).unsqueeze(1).float()
    return (sums + prior * wide.mean(0)) / (counts + prior)
