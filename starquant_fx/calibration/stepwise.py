"""What each site reads once the sites before it are quantized, in one run of the model over the calibration data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from starquant_fx.calibration.activations import graph_inputs, kept_tokens
from starquant_fx.calibration.data import QUANTIZED
from starquant_fx.program import Program, Site, facts


def quantized_inputs(program: Program) -> Iterator[tuple[Site, Tensor]]:
    """Inputs of every quantized site in the program as it is when the site's turn comes.

    The run stops before each site, so that the caller may replace the site's weights; it goes on with what it finds.

    Args:
        program: With calibration data; its graph may change from one site to the next, behind the last one.

    Yields:
        The site, and its tokens [N, d] float32, paired with what ``site_activations`` yields.

    Raises:
        CalibrationError: An activation is not finite.
    """
    data = program.calibration
    assert data is not None
    runs = step_runs(program, QUANTIZED)
    for site in program.quantized_sites():
        source = next(n for n in program.graph.nodes if facts(n).get("feeds") == site.name)
        yield site, kept_tokens(data, site.name, [run.until(source) for run in runs])


def step_runs(program: Program, stream: str, first: int | None = None) -> list[StepRun]:
    """One run for each chunk of the calibration data, or of its first sequences; see ``CalibrationData.inputs``."""
    data = program.calibration
    assert data is not None
    chunks = data.inputs(stream, first=first)
    return [StepRun(program, graph_inputs(program.graph, *chunk)) for chunk in chunks]


class StepRun:
    """A run of a program's graph that stops where it is told to.

    Args:
        program: The program; what comes after a stop may change before the run goes on.
        inputs: Values of the graph's placeholders.
    """

    def __init__(self, program: Program, inputs: dict[fx.Node, Any]) -> None:
        self._program = program
        self._env = inputs
        self._done = set(self._env)

    @torch.no_grad()
    def until(self, stop: fx.Node) -> Tensor:
        """Goes on up to a node and returns its value."""
        for node in self._program.graph.nodes:
            if stop in self._done:
                break
            if node not in self._done and node.op == "call_function" and node.users:
                arguments, named = fx.map_arg((node.args, node.kwargs), self._value)
                self._env[node] = node.target(*arguments, **named)
                self._done.add(node)
                self._forget(node)
        value = self._env[stop]
        assert isinstance(value, Tensor)
        return value

    def _value(self, node: fx.Node) -> Any:
        return self._program.tensor(node) if node.op == "get_attr" else self._env[node]

    def _forget(self, node: fx.Node) -> None:
        """Drops values that nothing reads any more."""
        for used in node.all_input_nodes:
            if used in self._env and self._done.issuperset(used.users):
                del self._env[used]
