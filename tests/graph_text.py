"""Stable text of a part of a graph, to be read and compared by people."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, fx

from starquant_fx.program import Program, Site, facts

SHORT = {
    torch.float32: "f32",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "b1",
}


def block_text(program: Program, first: Site, last: Site) -> str:
    """The graph from the tensor that one site reads to the results of another, one node a line.

    Nodes are numbered, tensors carry their names, sizes that are only known at run time are ``?``, and what
    passes noted on a node follows it.
    """
    nodes = _between(program, first, last)
    names = {node: f"%{i}" for i, node in enumerate(nodes)}
    return "\n".join(_line(node, names) for node in nodes) + "\n"


def _between(program: Program, first: Site, last: Site) -> list[fx.Node]:
    """Nodes on the way from start to end, and what only they read, such as chains on weights."""
    starts = [n for n in program.graph.nodes if facts(n).get("feeds") == first.name]
    ends = [n for n in program.graph.nodes if facts(n).get("site") == last.name]
    after = _closure(starts, lambda n: n.users)
    before = _closure(ends, lambda n: () if n in starts else n.all_input_nodes)
    shown: set[fx.Node] = set()
    for node in reversed(program.graph.nodes):
        own_weight = bool(node.users) and all(user in shown for user in node.users)
        if node.op == "call_function" and node in before and (node in after or own_weight):
            shown.add(node)
    return [n for n in program.graph.nodes if n in shown]


def _closure(start: list[fx.Node], step: Callable[[fx.Node], Iterable[fx.Node]]) -> set[fx.Node]:
    seen: set[fx.Node] = set()
    stack = list(start)
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack += step(node)
    return seen


def _line(node: fx.Node, names: dict[fx.Node, str]) -> str:
    arguments = [_argument(a, names) for a in node.args]
    arguments += [f"{k}={_argument(v, names)}" for k, v in node.kwargs.items()]
    noted = facts(node)
    told = [f"{key}={noted[key]}" for key in ("role", "part", "feeds") if key in noted]
    line = f"{names[node]}: {_type(node.meta['val'])} = {_operator(node)}({', '.join(arguments)})"
    return line + (f"  # {' '.join(told)}" if told else "")


def _operator(node: fx.Node) -> str:
    target = node.target
    return str(target) if isinstance(target, torch._ops.OpOverload) else target.__name__  # type: ignore[union-attr]


def _argument(value: object, names: dict[fx.Node, str]) -> str:
    if isinstance(value, fx.Node):
        if value in names:
            return names[value]
        return f"@{value.target}" if value.op == "get_attr" else f"<{_input(value)}>"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_argument(v, names) for v in value)}]"
    if isinstance(value, torch.dtype):
        return SHORT[value]
    return repr(value)


def _input(node: fx.Node) -> str:
    """A node outside of the part: what it is, not what export happened to call it."""
    if facts(node).get("part") == "state":
        return "state"
    return _type(node.meta["val"]) if node.op == "call_function" else node.name


def _type(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return f"({', '.join(_type(v) for v in value)})"
    if isinstance(value, Tensor):
        sizes = (str(s) if isinstance(s, int) else "?" for s in value.shape)
        return f"{SHORT[value.dtype]}[{', '.join(sizes)}]"
    return "?"
