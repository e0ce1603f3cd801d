"""Where the time of a denoising step goes: network, head, sampler, and the rest."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import torch
from torch import Tensor, fx, nn

from starquant_fx.diffusion import generate
from starquant_fx.evaluation.table import Sheet
from starquant_fx.evaluation.timing import Timed

LINEARS, TRANSFORMS, ATTENTION = "linears", "transforms and quantizers", "attention"
OTHER, HEAD, NETWORK = "norms, activations and the rest", "head", "network with head"
SAMPLER = "sampler"
PARTS = {
    "quantized_linear": LINEARS,
    "panel_linear": LINEARS,
    "panel_linears": LINEARS,
    "aten.linear.": LINEARS,
    "attention": ATTENTION,
    "starquant.": TRANSFORMS,
}
"""What a node belongs to, by the first of these that its operator's name has in it; else ``OTHER``."""


@dataclasses.dataclass(frozen=True)
class StepTimes:
    """Seconds of a generation by part.

    Attributes:
        seconds: By part.
        steps: Denoising steps.
    """

    seconds: dict[str, float]
    steps: int

    def sheet(self) -> Sheet:
        """A row a part: milliseconds a step, and the share of the step."""
        total = sum(self.seconds.values())
        rows = [
            (part, f"{1e3 * value / self.steps:.2f}", f"{100 * value / total:.1f} %")
            for part, value in (*self.seconds.items(), ("step", total))
        ]
        caption = "Milliseconds of a denoising step. The first step, which prepares graphs and memory, is left out."
        cells = tuple(tuple((cell,) for cell in row) for row in rows)
        return Sheet((("part",), ("ms",), ("share",)), cells, caption)


class _TimedGraph(fx.Interpreter):
    """Runs a graph node by node and adds up their seconds by part."""

    def __init__(self, module: fx.GraphModule, seconds: dict[str, float]) -> None:
        super().__init__(module)
        self._seconds = seconds
        self._head = next(iter(reversed(module.graph.nodes))).args[0]

    def run_node(self, n: fx.Node) -> Any:
        start = time.perf_counter()
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.is_cuda:
            torch.cuda.synchronize(value.device)
        name = str(n.target)
        part = next((p for key, p in PARTS.items() if key in name), OTHER)
        part = HEAD if n is self._head else part
        self._seconds[part] = self._seconds.get(part, 0.0) + time.perf_counter() - start
        return value


class _TimedCompiled(Timed):
    """A compiled model; every node of its graph belongs to a part."""

    def __init__(self, model: Any, seconds: dict[str, float]) -> None:
        super().__init__(model)
        self._graphs, self._parts = model.graph_at_rows, seconds

    def logits_at(self, rows: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        graph, inputs = self._graphs(args, kwargs)
        logits: Tensor = _TimedGraph(graph, self._parts).run(*inputs, rows)[0]
        return logits


def timed_generation(
    model: nn.Module, prompt_ids: Tensor, **arguments: Any
) -> tuple[Tensor, StepTimes]:
    """Generates and says where the time went; the first step, which also prepares graphs and memory, is not counted.

    Args:
        model: A compiled model, or another, whose network and head are then one part.
        prompt_ids: [B, L].
        **arguments: As ``starquant_fx.generate``.

    Returns:
        What ``generate`` returns, and the times.
    """
    seconds: dict[str, float] = {}
    state = {"start": 0.0, "steps": 0}

    def on_step(step: int, total: int, ids: Tensor, confidence: Tensor) -> None:
        if step == 1:
            seconds.clear()
            timed.seconds = 0.0
            state["start"] = time.perf_counter()
        state["steps"] = step - 1

    compiled = hasattr(model, "graph_at_rows")
    timed = _TimedCompiled(model, seconds) if compiled else Timed(model)
    out = generate(timed, prompt_ids, on_step=on_step, **arguments)
    if not compiled:
        seconds[NETWORK] = timed.seconds
    seconds[SAMPLER] = time.perf_counter() - state["start"] - sum(seconds.values())
    return out, StepTimes(seconds, max(1, int(state["steps"])))
