"""Estimates all TAC corrections in one run over the calibration states, each with the earlier ones active."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from starquant_fx.calibration.activations import FULL_PRECISION_STAGE, run_recorded
from starquant_fx.calibration.data import CORRECTED, FULL, TRANSFORMED
from starquant_fx.calibration.stepwise import StepRun, step_runs
from starquant_fx.calibration.tac import CHOSEN, TacOptions, choose, estimate
from starquant_fx.operators import op
from starquant_fx.program import Program, Site, facts

TRANSFORMED_STAGE = "insert-quantizers"
"""Stage whose graph, with its quantizers off, is the paper's full-precision reference."""
FEWEST = 16
"""Times the block size: a group of states with fewer tokens takes the map of all."""
REFERENCES = {
    "transformed": (TRANSFORMED_STAGE, TRANSFORMED),
    "original": (FULL_PRECISION_STAGE, FULL),
}
"""Stage of each reference, and the stream that its graph computes."""


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
    assert program.calibration is not None
    full = {name: _attention_outputs(program, sites, name, samples) for name in REFERENCES}
    length = program.calibration.batches[0].shape[1]
    runs = step_runs(program, CORRECTED, samples)
    for site in sites:
        _Correction(
            program, site, runs, {n: found[site.name] for n, found in full.items()}, length
        )(options, reference_name, tune)


def _attention_outputs(
    program: Program, sites: list[Site], reference_name: str, samples: int
) -> dict[str, list[Tensor]]:
    """Attention outputs [n, d] of each site in a stage (the original's if that stage was not kept), chunk by chunk."""
    stage, stream = REFERENCES[reference_name]
    module = program.stages.get(stage) or program.stages[FULL_PRECISION_STAGE]
    names = {s.name for s in sites}
    nodes = [n for n in module.graph.nodes if facts(n).get("feeds") in names]
    found: dict[str, list[Tensor]] = {name: [] for name in names}

    def record(node: fx.Node, value: Tensor) -> None:
        found[facts(node)["feeds"]].append(value.flatten(0, -2))

    run_recorded(program, module, nodes, record, stream, samples)
    return found


class _Correction:
    """The correction of one site, when all runs have come to it.

    Args:
        program: The program.
        site: The site.
        runs: A run of the program for each chunk.
        full: Reference activations [n, d] of each chunk, by the reference's name.
        length: Tokens of a sequence.
    """

    def __init__(
        self,
        program: Program,
        site: Site,
        runs: list[StepRun],
        full: dict[str, list[Tensor]],
        length: int,
    ) -> None:
        self._program, self._site, self._runs, self._length = program, site, runs, length
        self._node = program.site_node(site, "tac")
        source = self._node.args[0]
        assert isinstance(source, fx.Node)
        self._before = self._reached(source)
        order = program.site_nodes(site, "order")
        rows = [run.until(order[0]) if order else None for run in runs]
        self._full = {name: _ordered(chunks, rows) for name, chunks in full.items()}
        index = [torch.arange(len(chunk)) for chunk in full["original"]]
        starts = torch.tensor([0, *(len(chunk) for chunk in index)]).cumsum(0)
        self._index = _ordered([i + start for i, start in zip(index, starts, strict=False)], rows)

    def __call__(self, options: TacOptions, reference_name: str, tune: bool) -> None:
        """Estimates matrix and bias, one map for each group of states if there are several, and measures them."""
        n, program, quantized = self._node, self._program, self._before
        matrix_node, bias_node = n.args[-2:]
        assert isinstance(matrix_node, fx.Node)
        assert isinstance(bias_node, fx.Node)
        full = self._full[reference_name]
        block = program.tensor(matrix_node).shape[-1]
        found = program.findings.setdefault(self._site.name, {})
        if tune:
            options = choose(full, quantized, self._index // self._length, block, options)
            found.update({f"tac_{name}": getattr(options, name) for name in CHOSEN})
        matrix, bias = estimate(full, quantized, block, options)
        if n.target == op("compensate_by_state"):
            label = n.args[1]
            assert isinstance(label, fx.Node)
            index = torch.tensor(n.args[2])
            group = index[torch.cat([run.until(label).flatten() for run in self._runs])]
            maps = [(matrix, bias)] * (int(index.max()) + 1)
            for i in range(len(maps)):
                rows = group == i
                if int(rows.sum()) >= FEWEST * block:
                    maps[i] = estimate(full[rows], quantized[rows], block, options)
            matrix, bias = (torch.stack(parts) for parts in zip(*maps, strict=True))
        for node, value in ((matrix_node, matrix), (bias_node, bias)):
            program.set_tensor(str(node.target), value)
        corrected = self._reached(n)
        for name, reference in self._full.items():
            found[f"tac_before_{name}"] = relative_distance(quantized, reference)
            found[f"tac_after_{name}"] = relative_distance(corrected, reference)

    def _reached(self, node: fx.Node) -> Tensor:
        """A node's values [N, d] in all chunks."""
        return torch.cat([run.until(node).flatten(0, -2) for run in self._runs])


def _ordered(chunks: list[Tensor], rows: list[Tensor | None]) -> Tensor:
    """Values of all chunks, in the token order of the site's input."""
    pairs = zip(chunks, rows, strict=True)
    return torch.cat([chunk if order is None else chunk[order] for chunk, order in pairs])


def relative_distance(x: Tensor, to: Tensor) -> float:
    """||x - to||^2 / ||to||^2."""
    return float((x - to).pow(2).sum() / to.pow(2).sum().clamp(min=1e-30))
