"""What a refinement lowers: the divergence of the whole model's logits, or the error of one block's output."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, fx

from starquant_fx.calibration.activations import FULL_PRECISION_STAGE, graph_inputs, states_of
from starquant_fx.calibration.spans import Span, block_spans, whole_span
from starquant_fx.calibration.straight_through import StraightThroughRun
from starquant_fx.devices import Draws
from starquant_fx.logits import aligned_logits
from starquant_fx.program import Program

Tensors = Mapping[fx.Node, Tensor]
"""Stand-ins for tensors of the graph, by the node that reads them."""


class Objective(Protocol):
    """A loss over a span of the program's graph."""

    span: Span
    count: int
    """Sequences."""

    def loss(self, tensors: Tensors, step: int) -> Tensor:
        """Differentiable loss of the batch of a step."""
        ...

    def score(self, tensors: Tensors) -> float:
        """The loss over all sequences, the same ones every time."""
        ...


class Batches:
    """Which sequences each step takes: all of them in a new order, again and again.

    Args:
        count: Sequences.
        size: Sequences a step.
        seed: Seed of the orders.
    """

    def __init__(self, count: int, size: int, seed: int) -> None:
        self._count, self._size, self._seed = count, min(size, count), seed

    def __getitem__(self, step: int) -> Tensor:
        """Indices of the step's sequences."""
        epoch, start = divmod(step, self._count // self._size)
        order = Draws(self._seed + epoch).permutation(self._count)
        return order[start * self._size :][: self._size]

    def once(self) -> tuple[Tensor, ...]:
        """All sequences in order, in pieces of the same size."""
        return torch.arange(self._count).split(self._size)


class LogitDivergence:
    """KL(full precision || quantized) per masked token; masks are drawn anew for every step.

    Args:
        program: The program.
        samples: Calibration sequences used at most.
        batch: Sequences a step.
        seed: Seed of order and masks.
    """

    def __init__(self, program: Program, samples: int, batch: int, seed: int) -> None:
        assert program.calibration is not None
        self._program, self._data, self._seed = program, program.calibration, seed
        self._full = program.stages[FULL_PRECISION_STAGE]
        self._original = whole_span(self._full.graph)
        self.span = whole_span(program.graph)
        self.count = min(samples, len(self._data.batches[0]))
        self._batches = Batches(self.count, batch, seed)

    def loss(self, tensors: Tensors, step: int) -> Tensor:
        """Divergence of one batch under new masks."""
        rows = self._batches[step]
        masked = self._data.masked_anew(rows, self._program.mask_token_id, self._seed + step)
        return self._divergence(tensors, *masked)

    @torch.no_grad()
    def score(self, tensors: Tensors) -> float:
        """Divergence of the calibration states."""
        ids, states = next(self._data.chunks(self.count))
        parts = [
            self._divergence(tensors, ids[rows], None if states is None else states[rows])
            for rows in self._batches.once()
        ]
        return float(torch.stack(parts).mean())

    def _divergence(self, tensors: Tensors, ids: Tensor, states: Tensor | None) -> Tensor:
        program = self._program
        masked = states_of(program, ids, states) == 1
        with torch.no_grad():
            inputs = graph_inputs(self._full.graph, ids, states)
            p = StraightThroughRun(self._full).compute(self._original, inputs)
            p = aligned_logits(p, self._data.shifted)[masked].float().log_softmax(-1)
        inputs = graph_inputs(program.graph, ids, states)
        q = StraightThroughRun(program.module, tensors).compute(self.span, inputs)
        q = aligned_logits(q, self._data.shifted)[masked].float().log_softmax(-1)
        total = torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True)
        return total / max(len(p), 1)  # without a masked token there is nothing to match


@dataclasses.dataclass
class BlockError:
    """Squared error of what a block hands on, relative to full precision's mean square.

    Attributes:
        span: The block.
        count: Sequences.
        module: The graph.
        known: Values of the graph's inputs and of the span's start, one row a sequence.
        target: What full precision hands on, one row a sequence.
        batches: Which sequences each step takes.
    """

    span: Span
    count: int
    module: fx.GraphModule
    known: dict[fx.Node, Tensor]
    target: Tensor
    batches: Batches

    def loss(self, tensors: Tensors, step: int) -> Tensor:
        """Error of one batch."""
        return self._error(tensors, self.batches[step])

    @torch.no_grad()
    def score(self, tensors: Tensors) -> float:
        """Error over all sequences."""
        parts = [self._error(tensors, rows) for rows in self.batches.once()]
        return float(torch.stack(parts).mean())

    def _error(self, tensors: Tensors, rows: Tensor) -> Tensor:
        known = {n: value[rows] for n, value in self.known.items()}
        out = StraightThroughRun(self.module, tensors).compute(self.span, known)
        power = self.target.pow(2).mean().clamp(min=torch.finfo(torch.float32).tiny)
        return (out - self.target[rows]).float().pow(2).mean() / power


def block_errors(
    program: Program, samples: int, batch: int, seed: int, sequential: bool
) -> Iterator[BlockError]:
    """The blocks one after the other; what was set in the program since counts for those that follow.

    Args:
        program: The program.
        samples: Calibration sequences used at most.
        batch: Sequences a step.
        seed: Seed of the order.
        sequential: A block reads what the quantized blocks before it hand on, instead of what full precision does.

    Yields:
        The error of each block.
    """
    assert program.calibration is not None
    full = program.stages[FULL_PRECISION_STAGE]
    ids, states = next(program.calibration.chunks(samples))
    given, known = graph_inputs(full.graph, ids, states), graph_inputs(program.graph, ids, states)
    spans = block_spans(program, program.graph)
    for span, original in zip(spans, block_spans(program, full.graph), strict=True):
        batches = Batches(len(ids), batch, seed + zlib.crc32(span.name.encode()))
        given[original.end] = _handed_on(full, original, given, batches)
        yield BlockError(span, len(ids), program.module, known, given[original.end], batches)
        known[span.end] = (
            _handed_on(program.module, span, known, batches) if sequential else given[original.end]
        )
        if span.start is not None and original.start is not None:
            del known[span.start], given[original.start]


@torch.no_grad()
def _handed_on(
    module: fx.GraphModule, span: Span, known: dict[fx.Node, Tensor], batches: Batches
) -> Tensor:
    """The value of a span's end for all sequences."""
    run = StraightThroughRun(module)
    parts = [
        run.compute(span, {n: value[rows] for n, value in known.items()}) for rows in batches.once()
    ]
    return torch.cat(parts)
