"""Estimates all TAC corrections in one run over the calibration states, each with the earlier ones active."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from starquant_fx.calibration.activations import FULL_PRECISION_STAGE, Recorder
from starquant_fx.calibration.tac import CHOSEN, TacOptions, choose, estimate
from starquant_fx.operators import op
from starquant_fx.program import Program, Site, facts

TRANSFORMED_STAGE = "insert-quantizers"
"""Stage whose graph, with its quantizers off, is the paper's full-precision reference."""
FEWEST = 16
"""Times the block size: a group of states with fewer tokens takes the map of all."""
REFERENCES = {"transformed": TRANSFORMED_STAGE, "original": FULL_PRECISION_STAGE}


def estimate_corrections(
    program: Program,
    sites: list[Site],
    options: TacOptions,
    reference_name: str,
    samples: int,
    tune: bool = False,
) -> None:
    """Sets matrix and bias of every ``compensate`` node, in graph order.

    ``findings[site]`` receives the relative distance to both references before and after the correction.

    Args:
        program: With ``compensate`` nodes marked as part ``tac`` of the sites.
        sites: Attention output projections.
        options: Constants of the estimate.
        reference_name: Which reference to match, a key of ``REFERENCES``.
        samples: Sequences used at most.
        tune: Choose damping, smoothing and shrinkage of each site on held-out sequences.
    """
    data = program.calibration
    assert data is not None
    ids, states = next(data.chunks(samples))
    inputs = [ids] if states is None else [ids, states]
    full = {
        name: _attention_outputs(program, sites, stage, inputs)
        for name, stage in REFERENCES.items()
    }
    with torch.no_grad():
        _Estimator(program, sites, options, reference_name, full, ids.shape[1], tune).run(*inputs)


def _attention_outputs(
    program: Program, sites: list[Site], stage: str, inputs: list[Tensor]
) -> dict[str, Tensor]:
    """Attention outputs [N, d] of each site in a stage (the original's if that stage was not kept), quantizers off."""
    module = program.stages.get(stage) or program.stages[FULL_PRECISION_STAGE]
    names = {s.name for s in sites}
    nodes = [n for n in module.graph.nodes if facts(n).get("feeds") in names]
    found: dict[str, Tensor] = {}

    def record(node: fx.Node, value: Tensor) -> None:
        found[facts(node)["feeds"]] = value.flatten(0, -2)

    with torch.no_grad():
        Recorder(module, nodes, record, quantizers_off=True).run(*inputs)
    return found


class _Estimator(Recorder):
    """Estimates a correction when the run reaches it, so that everything after it is computed with it."""

    def __init__(
        self,
        program: Program,
        sites: list[Site],
        options: TacOptions,
        reference_name: str,
        full: dict[str, dict[str, Tensor]],
        length: int,
        tune: bool,
    ) -> None:
        self._sites = {program.site_node(site, "tac"): site for site in sites}
        super().__init__(program.module, self._sites, self._measure)
        self._program = program
        self._options = options
        self._reference_name = reference_name
        self._full = full
        self._length = length
        self._tune = tune

    def run_node(self, n: fx.Node) -> Any:
        if n in self._sites:
            self._set(n, self._sites[n])
        return super().run_node(n)

    def _pair(self, site: Site, name: str) -> Tensor:
        """Reference activations in the token order of the site's input."""
        rows = self._full[name][site.name]
        order = self._program.site_nodes(site, "order")
        return rows[self.env[order[0]]] if order else rows

    def _set(self, n: fx.Node, site: Site) -> None:
        """Estimates matrix and bias of a node, one map for each group of states if it has several."""
        source, (matrix_node, bias_node) = n.args[0], n.args[-2:]
        assert isinstance(matrix_node, fx.Node)
        assert isinstance(bias_node, fx.Node)
        quantized = self.env[source].flatten(0, -2)  # type: ignore[index]
        full = self._pair(site, self._reference_name)
        block = self._program.tensor(matrix_node).shape[-1]
        options = self._options
        if self._tune:
            options = choose(full, quantized, self._sequences(site), block, options)
            self._program.findings.setdefault(site.name, {}).update(
                {f"tac_{name}": getattr(options, name) for name in CHOSEN}
            )
        matrix, bias = estimate(full, quantized, block, options)
        if n.target == op("compensate_by_state"):
            index = torch.tensor(n.args[2])
            group = index[self.env[n.args[1]].flatten()]  # type: ignore[index]
            maps = [(matrix, bias)] * (int(index.max()) + 1)
            for i in range(len(maps)):
                rows = group == i
                if int(rows.sum()) >= FEWEST * block:
                    maps[i] = estimate(full[rows], quantized[rows], block, options)
            matrix, bias = (torch.stack(parts) for parts in zip(*maps, strict=True))
        for node, value in ((matrix_node, matrix), (bias_node, bias)):
            self._program.set_tensor(str(node.target), value)
            self.env[node] = value

    def _sequences(self, site: Site) -> Tensor:
        """Which sequence each token of the site's input belongs to."""
        order = self._program.site_nodes(site, "order")
        index = (
            self.env[order[0]] if order else torch.arange(len(self._full["original"][site.name]))
        )
        return index // self._length

    def _measure(self, n: fx.Node, corrected: Tensor) -> None:
        site = self._sites[n]
        before = self.env[n.args[0]].flatten(0, -2)  # type: ignore[index]
        found = self._program.findings.setdefault(site.name, {})
        for name in self._full:
            full = self._pair(site, name)
            found[f"tac_before_{name}"] = relative_distance(before, full)
            found[f"tac_after_{name}"] = relative_distance(corrected.flatten(0, -2), full)


def relative_distance(x: Tensor, to: Tensor) -> float:
    """||x - to||^2 / ||to||^2."""
    return float((x - to).pow(2).sum() / to.pow(2).sum().clamp(min=1e-30))
