"""What a node of torch.fx reads, as names and text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from starquant_fx.cost.calls import operator_name, renaming, size
from starquant_fx.inspection.recording import Source
from starquant_fx.program import Program

SHORT = {
    torch.float64: "f64",
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "b1",
}
LONGEST = 200
"""Characters of an argument's text."""
TAKER = "python.getitem"


@dataclasses.dataclass
class Read:
    """Of one node; as in ``recording.Node``."""

    sources: list[Source] = dataclasses.field(default_factory=list)
    tensors: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    arguments: list[tuple[str, str]] = dataclasses.field(default_factory=list)


class Reader:
    """Reads the nodes of one compilation.

    Args:
        program: As captured: its first input is ``input_ids`` [B, L].
    """

    def __init__(self, program: Program) -> None:
        self.rename = renaming(program.graph.nodes)
        """Puts B and L in the place of the capture's symbols."""

    def is_shown(self, node: fx.Node) -> bool:
        """Whether a node computes tensors: constants, sizes and takers of one of several results do not."""
        return node.op != "get_attr" and not _is_size(node) and not _is_taker(node)

    def read(self, given: Mapping[str, Any]) -> Read:
        """What a call reads.

        Args:
            given: Its arguments by name.
        """
        found = Read()
        for name, value in given.items():
            nodes: list[fx.Node] = []
            fx.map_arg(value, nodes.append)
            for one in nodes:
                if one.op == "get_attr":
                    found.tensors.append((name, str(one.target), self.type(one.meta.get("val"))))
                elif not _is_size(one):
                    source, output = _resolved(one)
                    found.sources.append(Source(source.name, output, name))
            if value is not None and not (nodes and all(map(_is_tensor, nodes))):
                text = self._text(value)
                found.arguments.append(
                    (name, text if len(text) <= LONGEST else f"{text[:LONGEST]}...")
                )
        return found

    def outputs(self, node: fx.Node) -> tuple[str, ...]:
        """Types and sizes of a node's results."""
        value = node.meta.get("val")
        if isinstance(value, (tuple, list)):
            return tuple(map(self.type, value))
        return () if value is None else (self.type(value),)

    def type(self, value: Any) -> str:
        """For example ``f32[B, L, 4096]``."""
        if not isinstance(value, Tensor):
            return self._text(value)
        sizes = ", ".join(map(self._text, value.shape))
        return f"{SHORT.get(value.dtype, str(value.dtype))}[{sizes}]"

    def _text(self, value: Any) -> str:
        if isinstance(value, fx.Node):
            return self._text(value.meta.get("val")) if _is_size(value) else value.name
        if isinstance(value, torch.SymInt):
            return str(self.rename(size(value)))
        if isinstance(value, (tuple, list)):
            return f"[{', '.join(map(self._text, value))}]"
        return SHORT[value] if value in SHORT else str(value)


def _is_size(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), (torch.SymInt, int))


def _is_tensor(node: fx.Node) -> bool:
    return not _is_size(node)


def _is_taker(node: fx.Node) -> bool:
    """Whether a node only takes one of several results."""
    return (
        node.op == "call_function"
        and operator_name(node.target) == TAKER
        and isinstance(node.args[0], fx.Node)
        and isinstance(node.args[1], int)
        and isinstance(node.args[0].meta.get("val"), (tuple, list))
    )


def _resolved(node: fx.Node) -> tuple[fx.Node, int]:
    """The node that makes a value, and which of its results it is."""
    if not _is_taker(node):
        return node, 0
    source, output = node.args
    assert isinstance(source, fx.Node)
    assert isinstance(output, int)
    return source, output
