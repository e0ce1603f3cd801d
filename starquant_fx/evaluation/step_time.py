"""Where the time of a denoising step goes: network, head, sampler, and the rest."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import Any

import torch
from torch import Tensor, fx, nn

from starquant_fx.diffusion import generate
from starquant_fx.diffusion.api import step_view
from starquant_fx.evaluation.table import Sheet
from starquant_fx.evaluation.timing import Timed

LINEARS, TRANSFORMS, ATTENTION = "linears", "transforms and quantizers", "attention"
OTHER = "norms, activations and others"
INSIDE = (LINEARS, TRANSFORMS, ATTENTION, OTHER)
"""Parts of the network."""
NETWORK, WHOLE_NETWORK = "network", "network with head"
HEAD, SAMPLER, REST = "head", "sampler", "rest"
OUTSIDE = (HEAD, SAMPLER, REST)
PARTS = {
    "quantized_linear": LINEARS,
    "panel_linear": LINEARS,
    "panel_linears": LINEARS,
    "tile_linear": LINEARS,
    "aten.linear.": LINEARS,
    "attention": ATTENTION,
    "starquant.": TRANSFORMS,
}
"""What a node belongs to, by the first of these that its operator's name has in it; else ``OTHER``."""


@dataclasses.dataclass(frozen=True)
class StepTimes:
    """Seconds of a generation by part.

    Attributes:
        seconds: By part: ``INSIDE`` and ``HEAD``, or ``WHOLE_NETWORK``; ``SAMPLER``, what happens between logits and
            the ids of the next step; and ``REST``, that is callbacks, binding of arguments, and the timing itself.
        steps: Denoising steps that these are of.
        first: Seconds of the first step, which is none of them: it prepares graphs and memory.
    """

    seconds: dict[str, float]
    steps: int
    first: float

    @property
    def total(self) -> float:
        """Seconds of all steps."""
        return sum(self.seconds.values())

    @property
    def outside(self) -> float:
        """The share of head, sampler and rest; of a model whose head is not timed apart, of the latter two."""
        return self._share(sum(self.seconds.get(part, 0.0) for part in OUTSIDE))

    def _share(self, value: float) -> float:
        return value / self.total if self.total else 0.0  # nothing is left of a single step

    def sheet(self) -> Sheet:
        """A row a part: milliseconds a step, and the share of the step; parts of the network are indented."""
        found = self.seconds
        inside = {part: found[part] for part in INSIDE if part in found}
        lines = {NETWORK: sum(inside.values())} if inside else {}
        lines |= {f"  {part}": value for part, value in inside.items()}
        lines |= {part: value for part, value in found.items() if part not in inside}
        lines |= {"step": self.total}
        if HEAD in found:
            lines |= {", ".join(OUTSIDE): self.outside * self.total}
        rows = [
            (part, f"{1e3 * value / self.steps:.2f}", f"{100 * self._share(value):.1f} %")
            for part, value in lines.items()
        ]
        caption = (
            "Milliseconds of a denoising step. The first step, which prepares graphs and memory, is left out; it "
            f"took {1e3 * self.first:.0f}."
        )
        cells = tuple(tuple((cell,) for cell in row) for row in rows)
        return Sheet((("part",), ("ms",), ("share",)), cells, caption)


class _TimedGraph(fx.Interpreter):
    """Runs a graph node by node and adds up their seconds by part."""

    def __init__(self, module: fx.GraphModule, seconds: dict[str, float]) -> None:
        super().__init__(module)
        self._seconds = seconds
        self._part = {node: _part(str(node.target)) for node in module.graph.nodes}
        self._part[next(iter(reversed(module.graph.nodes))).args[0]] = HEAD

    def run_node(self, n: fx.Node) -> Any:
        start = time.perf_counter()
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.is_cuda:
            torch.cuda.synchronize(value.device)
        part = self._part[n]
        self._seconds[part] = self._seconds.get(part, 0.0) + time.perf_counter() - start
        return value


def _part(operator: str) -> str:
    return next((part for key, part in PARTS.items() if key in operator), OTHER)


class _TimedCompiled(Timed):
    """A compiled model; every node of its graph belongs to a part."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.parts: dict[str, float] = {}
        self._graphs = model.graph_at_rows
        self._timed: dict[fx.GraphModule, _TimedGraph] = {}

    def logits_at(self, rows: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        start = time.perf_counter()
        graph, inputs = self._graphs(args, kwargs)
        if graph not in self._timed:
            self._timed[graph] = _TimedGraph(graph, self.parts)
        logits: Tensor = self._timed[graph].run(*inputs, rows)[0]
        self.seconds += time.perf_counter() - start
        return logits


class _Clock:
    """A step callback, the only one, that tells the seconds of callbacks from others.

    Args:
        timed: The model; its seconds are counted from the end of the first step on.
        view: What else is called after a step, or None.
    """

    def __init__(self, timed: Timed, view: Any) -> None:
        self._timed, self._view = timed, view
        self._began = self._start = time.perf_counter()
        self._callbacks = self._end = self.first = 0.0
        self.steps = 0

    def __call__(self, step: int, total: int, ids: Tensor, confidence: Tensor) -> None:
        entered = time.perf_counter()
        if self._view is not None:
            self._view(step, total, ids, confidence)
        self._end = time.perf_counter()
        self._callbacks += self._end - entered
        self.steps = step - 1
        if step == 1:
            self.first = self._end - self._began
            self._start, self._callbacks, self._timed.seconds = self._end, 0.0, 0.0
            if isinstance(self._timed, _TimedCompiled):
                self._timed.parts.clear()

    def times(self) -> StepTimes:
        """What was counted."""
        timed, total = self._timed, self._end - self._start
        parts = timed.parts if isinstance(timed, _TimedCompiled) else {WHOLE_NETWORK: timed.seconds}
        inside = sum(parts.values())
        sampler = total - timed.seconds - self._callbacks
        seconds = parts | {SAMPLER: sampler, REST: timed.seconds - inside + self._callbacks}
        return StepTimes(seconds, max(1, self.steps), self.first)


def timed_generation(
    model: nn.Module, prompt_ids: Tensor, live: Any = None, **arguments: Any
) -> tuple[Tensor, StepTimes]:
    """Generates and says where the time went; the first step, which also prepares graphs and memory, is not counted.

    Args:
        model: A compiled model, or another, whose network and head are then one part.
        prompt_ids: [B, L].
        live: As ``starquant_fx.generate``.
        **arguments: As ``starquant_fx.generate``.

    Returns:
        What ``generate`` returns, and the times.
    """
    timed = _TimedCompiled(model) if hasattr(model, "graph_at_rows") else Timed(model)
    mask, progress = arguments.get("attention_mask"), arguments.pop("progress", None)
    view = step_view(model, prompt_ids, mask, progress, live, arguments)
    clock = _Clock(timed, view)
    with view or contextlib.nullcontext():
        out = generate(timed, prompt_ids, progress=False, on_step=clock, **arguments)
    return out, clock.times()
