"""The modules of a stage as a tree in which alike layers are one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from starquant_fx.inspection.recording import Node, Stage

Shape = tuple[object, ...]


@dataclasses.dataclass
class Module:
    """A module.

    Attributes:
        name: The last part of its path.
        path: All of it; empty = the model.
        nodes: That stand in it and in none below it.
        children: Modules below it, by name.
    """

    name: str
    path: str
    nodes: list[Node] = dataclasses.field(default_factory=list)
    children: dict[str, Module] = dataclasses.field(default_factory=dict)

    def all_nodes(self) -> Iterator[Node]:
        """Its nodes and those below it."""
        yield from self.nodes
        for child in self.children.values():
            yield from child.all_nodes()

    def shape(self) -> Shape:
        """What two modules have in common if they are alike: all but names and values."""
        own = tuple(
            (
                n.operator,
                n.outputs,
                n.role,
                n.part,
                n.bits,
                n.made_by,
                *(k for _, _, k in n.tensors),
            )
            for n in self.nodes
        )
        below = tuple((name, child.shape()) for name, child in self.children.items())
        return own, below


@dataclasses.dataclass(frozen=True)
class Group:
    """Modules of consecutive numbers that are alike, or one module.

    Attributes:
        title: For example ``blocks.0 … blocks.31``.
        module: The first.
        count: How many.
    """

    title: str
    module: Module
    count: int


def modules(nodes: Iterable[Node]) -> Module:
    """Nodes sorted into their modules.

    Args:
        nodes: The nodes.

    Returns:
        The model.
    """
    top = Module("", "")
    for node in nodes:
        place = top
        for part in node.module.split(".") if node.module else ():
            path = f"{place.path}.{part}" if place.path else part
            place = place.children.setdefault(part, Module(part, path))
        place.nodes.append(node)
    return top


def tree_of(stage: Stage) -> Module:
    """The modules of a stage."""
    return modules(stage.nodes.values())


def groups(module: Module, fold: bool = True) -> list[Group]:
    """What stands below a module.

    Args:
        module: The module.
        fold: Put alike layers together.

    Returns:
        Groups, in order. A child that only holds others, such as the list of all layers, is not one of its own.
    """
    found: list[Group] = []
    last: Shape | None = None
    start = ""
    for prefix, child in _children(module, ""):
        title = f"{prefix}{child.name}"
        shape = (prefix, child.shape()) if fold and child.name.isdecimal() else None
        if shape is not None and shape == last:
            before = found.pop()
            found.append(Group(f"{start} … {title}", before.module, before.count + 1))
        else:
            found.append(Group(title, child, 1))
            start = title
        last = shape
    return found


def _children(module: Module, prefix: str) -> Iterator[tuple[str, Module]]:
    for child in module.children.values():
        lists = child.children and all(name.isdecimal() for name in child.children)
        if not child.nodes and (lists or len(child.children) == 1):
            yield from _children(child, f"{prefix}{child.name}.")
        else:
            yield prefix, child
