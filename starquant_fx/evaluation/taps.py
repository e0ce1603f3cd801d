"""Where a graph's hidden states and attention outputs are, read off its dataflow, whatever passes made of it."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import torch
from torch import Tensor, fx

from starquant_fx.errors import CaptureError
from starquant_fx.kernels import reference
from starquant_fx.operators import op
from starquant_fx.program import ATTENTION

aten = torch.ops.aten
LAYOUT = (
    *(aten.transpose.int, aten.permute.default, aten.view.default, aten.reshape.default),
    *(aten._unsafe_view.default, aten.flatten.using_ints, aten.clone.default),
    *(aten.contiguous.default, aten._to_copy.default, aten.dropout.default),
)
"""What may stand between an attention and what reads it without changing the numbers."""
BEFORE_CORRECTION = (op("partition"), operator.getitem)
"""What may stand between an attention output and its correction; a token's correction knows no order of tokens."""


@dataclasses.dataclass(frozen=True)
class Correction:
    """The arguments of a correction, of tokens in their order.

    Attributes:
        matrix: Reads the matrix, or one for each of several maps.
        offset: Reads the offset, or one for each.
        state: The tokens' states; None with one map for all.
        index: Which map each state takes.
    """

    matrix: fx.Node
    offset: fx.Node
    state: fx.Node | None = None
    index: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class LayerTaps:
    """Nodes of one layer.

    Attributes:
        attention: The attention output, heads side by side.
        correction: What the graph corrects it by before anything else reads it; None without.
        hidden: The residual stream [B, L, d] after the layer.
    """

    attention: fx.Node
    correction: Correction | None
    hidden: fx.Node


def layer_taps(graph: fx.Graph) -> list[LayerTaps]:
    """Finds the layers of a denoiser: one an attention, in graph order.

    The hidden state after a layer is its last residual addition: an addition of two values [B, L, d] on which every
    path from the layer's attention to the logits meets, before the next attention's first. Norms that a residual
    passes by are on no such meeting point, and linears, biases and transforms are no additions of two tokens' values.

    Args:
        graph: As captured, or as any pass left it.

    Returns:
        The taps, layer by layer.

    Raises:
        CaptureError: A layer has no residual addition.
    """
    attentions = [n for n in graph.nodes if n.op == "call_function" and n.target == ATTENTION]
    meeting = _meeting_points(graph)
    chains = [_chain(n, meeting) for n in attentions]
    taps: list[LayerTaps] = []
    width: int | None = None
    for chain, later in zip(chains, [*chains[1:], []], strict=True):
        after = set(later)
        sums = [n for n in chain if n not in after and _is_residual(n)]
        width = sums[0].meta["val"].shape[-1] if sums and width is None else width
        sums = [n for n in sums if n.meta["val"].shape[-1] == width]
        if not sums:
            raise CaptureError(
                "a layer has no hidden state to measure",
                where=str(chain[0]) if chain else "graph",
                expected="a residual addition between its attention and the next",
                got="none",
            )
        taps.append(LayerTaps(*_output(attentions[len(taps)]), sums[-1]))
    return taps


def _meeting_points(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """The nearest node that every path from a node to the output passes (its immediate post-dominator)."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    output = next(iter(reversed(graph.nodes)))
    meeting = {output: output}
    for node in reversed(graph.nodes):
        users = [user for user in node.users if user in meeting]
        if node is output or not users:
            continue
        meet = users[0]
        for user in users[1:]:
            while meet is not user:  # the earlier of the two steps forward until they meet
                if order[meet] < order[user]:
                    meet = meeting[meet]
                else:
                    user = meeting[user]
        meeting[node] = meet
    return meeting


def _chain(node: fx.Node, meeting: dict[fx.Node, fx.Node]) -> list[fx.Node]:
    """All meeting points after a node, nearest first."""
    chain: list[fx.Node] = []
    while node in meeting and meeting[node] is not node:
        node = meeting[node]
        chain.append(node)
    return chain


def _is_residual(node: fx.Node) -> bool:
    """Whether a node adds two values of one shape [B, L, d]."""
    if node.target != aten.add.Tensor or not all(isinstance(a, fx.Node) for a in node.args[:2]):
        return False
    shapes = [n.meta["val"].shape for n in (node, *node.args[:2])]  # type: ignore[union-attr]
    return len(shapes[0]) == 3 and all(shape == shapes[0] for shape in shapes)


def _output(attention: fx.Node) -> tuple[fx.Node, Correction | None]:
    """Follows an attention's result to what reads it: (value, its correction)."""
    value = _last(attention, LAYOUT)
    before = _last(value, BEFORE_CORRECTION)
    for reader in before.users:
        schema = getattr(reader.target, "_schema", None)
        names = [argument.name for argument in schema.arguments] if schema else []
        given = dict(zip(names, reader.args, strict=False))
        matrix, offset = given.get("matrix"), given.get("offset", given.get("bias"))
        if not (isinstance(matrix, fx.Node) and isinstance(offset, fx.Node)):
            continue
        if reader.target != op("compensate_by_state"):
            return value, Correction(matrix, offset)
        state: Any = given["state"]
        index: Any = given["index"]
        partition: Any = before.args[0] if before.target == operator.getitem else None
        if partition is not None:
            state = partition.args[1]  # in the tokens' order
        return value, Correction(matrix, offset, state, tuple(index))
    return value, None


def _last(node: fx.Node, through: tuple[Any, ...]) -> fx.Node:
    """The last of a chain of operators that each take the (first) result of the one before."""
    while True:
        after = [u for u in node.users if u.target in through and u.args[0] is node]
        after = [u for u in after if u.target is not operator.getitem or u.args[1] == 0]
        if not after:
            return node
        node = after[0]


class Tapped(fx.Interpreter):
    """Runs a graph and keeps what its taps hold.

    Args:
        module: The graph.
        taps: Of this graph.
    """

    def __init__(self, module: fx.GraphModule, taps: list[LayerTaps]) -> None:
        super().__init__(module)
        states = {t.correction.state for t in taps if t.correction and t.correction.state}
        self._kept = {node for t in taps for node in (t.hidden, t.attention)} | states
        self._taps = taps
        self._values: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node, and keeps its value if it is tapped."""
        value = super().run_node(n)
        if n in self._kept:
            self._values[n] = value
        return value

    def states(self, ids: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Runs the graph.

        Args:
            ids: [B, L] token ids.

        Returns:
            Logits [B, L, vocab], and for each layer the hidden state [B, L, d] and the attention output [B, L, d'] as
            it is after its correction.
        """
        with torch.no_grad():
            logits: Tensor = self.run(ids)
            hidden = [self._values[t.hidden] for t in self._taps]
            attention = [self._attention(t) for t in self._taps]
        self._values.clear()
        return logits, hidden, attention

    def _attention(self, tap: LayerTaps) -> Tensor:
        value = self._values[tap.attention]
        if tap.correction is None:
            return value
        by = tap.correction
        matrix, offset = (
            operator.attrgetter(str(n.target))(self.module) for n in (by.matrix, by.offset)
        )
        if by.state is None:
            return reference.compensate(value, matrix, offset)
        return reference.compensate_by_state(
            value, self._values[by.state], by.index, matrix, offset
        )
