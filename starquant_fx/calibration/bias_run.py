"""Corrects the bias rows of all sites in one run over the calibration states, each with the earlier ones corrected."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.functional import linear

from starquant_fx.calibration.activations import (
    Recorder,
    full_precision_parameters,
    site_activations,
)
from starquant_fx.program import Program, Site, facts


def correct_biases(program: Program, prior: float) -> None:
    """Moves every bias row of ``add_state_bias`` by the mean error of its state's outputs.

    Args:
        program: With centring, its weights folded.
        prior: Tokens' worth of weight of no correction.
    """
    data = program.calibration
    assert data is not None
    ends = {
        end: (site, i)
        for site in program.quantized_sites()
        for i, end in enumerate(program.site_ends(site))
    }
    for site in program.quantized_sites():
        program.findings.setdefault(site.name, {})["bias_moved"] = 0.0
    full = {site.name: tokens for site, tokens, _ in site_activations(program)}
    with torch.no_grad():
        ids, states = next(data.chunks(len(data.batches[0])))  # sequences of one length
        run = _Corrector(program, ends, full, prior, ids.numel())
        run.run(ids) if states is None else run.run(ids, states)


class _Corrector(Recorder):
    """Corrects a site when the run reaches it, so that everything after it is computed with the correction."""

    def __init__(
        self,
        program: Program,
        ends: dict[fx.Node, tuple[Site, int]],
        full: dict[str, Tensor],
        prior: float,
        tokens: int,
    ) -> None:
        super().__init__(program.module, ends, lambda node, value: None)
        assert program.calibration is not None
        self._program, self._ends, self._full, self._prior = program, ends, full, prior
        keep = program.calibration.subset()
        self._keep = keep[keep < tokens]

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        return self._corrected(n, value) if n in self._ends else value

    def _corrected(self, n: fx.Node, value: Tensor) -> Tensor:
        program = self._program
        site, index = self._ends[n]
        weight, bias = full_precision_parameters(program, site)[index]
        wanted = linear(self._full[site.name][: len(self._keep)], weight, bias)
        label = self.env[program.site_node(site, "states")].flatten()
        order = self.env[program.site_node(site, "order")]
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))  # of each token in the partition
        rows = place[self._keep]
        error = wanted - value.flatten(0, -2)[rows].float()
        sums = torch.zeros(program.states, error.shape[1]).index_add_(0, label[rows], error)
        counts = torch.bincount(label[rows], minlength=program.states)[:, None]
        move = sums / (counts + self._prior)
        (node,) = (
            b
            for b in program.site_nodes(site, "state_bias")
            if facts(b)["of"] == site.linears[index]
        )
        target = node.args[2]
        assert isinstance(target, fx.Node)
        program.set_tensor(str(target.target), program.tensor(target) + move)
        found = program.findings[site.name]
        found["bias_moved"] = max(
            found["bias_moved"], float(move.norm() / wanted.norm(dim=1).mean())
        )
        return value + move.to(value.dtype)[label].reshape(value.shape)
