"""What differs between two stages: nodes that came, went, or compute something else."""

from __future__ import annotations

import dataclasses

from starquant_fx.errors import InputError
from starquant_fx.inspection.recording import Node, Recording, Source, Stage

FIELDS = (
    *("operator", "sources", "arguments", "tensors", "outputs", "bits"),
    *("role", "site", "part"),
)
"""Of a node; one that differs in any of them has changed, on the terminal and on the page, which gets them packed.

What differs in nothing else has not: who made a node and from what, its module and linear, operations and bytes.
"""
BETWEEN = ".."
"""Between the names of two stages."""


@dataclasses.dataclass(frozen=True)
class FieldChange:
    """A field of a node that differs.

    Attributes:
        field: Its name, one of ``FIELDS``.
        before: As text; empty = nothing.
        after: Likewise.
    """

    field: str
    before: str
    after: str

    def __str__(self) -> str:
        """For example ``sources: x -> y``."""
        return f"{self.field}: {self.before or 'nothing'} -> {self.after or 'nothing'}"


@dataclasses.dataclass(frozen=True)
class Changed:
    """A node of both stages that differs.

    Attributes:
        before: As it was.
        after: As it is.
        fields: What differs.
    """

    before: Node
    after: Node
    fields: tuple[FieldChange, ...]


@dataclasses.dataclass(frozen=True)
class Difference:
    """Of two stages.

    Attributes:
        before: The first.
        after: The second.
        added: Nodes of the second only, in its order.
        removed: Nodes of the first only, in its order.
        changed: Nodes of both that differ, in the order of the second.
    """

    before: Stage
    after: Stage
    added: tuple[Node, ...]
    removed: tuple[Node, ...]
    changed: tuple[Changed, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many nodes were added, removed and changed, and how many stayed."""
        return {
            "added": len(self.added),
            "removed": len(self.removed),
            "changed": len(self.changed),
            "unchanged": len(self.after.nodes) - len(self.added) - len(self.changed),
        }


def difference(before: Stage, after: Stage) -> Difference:
    """Compares two stages, node by node of the same name.

    Args:
        before: The first.
        after: The second; it need not come right after the first.

    Returns:
        The difference.
    """
    changed = []
    for name, node in after.nodes.items():
        old = before.nodes.get(name)
        # a node that did not change is mostly the same object, so that this is fast for large graphs
        if old is not None and old is not node and (fields := changes(old, node)):
            changed.append(Changed(old, node, fields))
    return Difference(
        before=before,
        after=after,
        added=tuple(n for name, n in after.nodes.items() if name not in before.nodes),
        removed=tuple(n for name, n in before.nodes.items() if name not in after.nodes),
        changed=tuple(changed),
    )


def changes(before: Node, after: Node) -> tuple[FieldChange, ...]:
    """The fields in which two nodes differ."""
    found = []
    for field in FIELDS:
        old, new = getattr(before, field), getattr(after, field)
        if old == new:
            continue
        if isinstance(old, tuple):
            one, other = list(map(_entry, old)), list(map(_entry, new))
            # what both have says nothing, unless only the order or the number differs
            left = [text for text in one if text not in other]
            right = [text for text in other if text not in one]
            if not left and not right:
                left, right = one, other
            found.append(FieldChange(field, ", ".join(left), ", ".join(right)))
        else:
            found.append(FieldChange(field, old, new))
    return tuple(found)


def parse_range(text: str, recording: Recording) -> tuple[Stage, Stage]:
    """Reads two stages from a text such as ``insert-tac..fuse``.

    A side that is left out is the first or the last stage; one name alone is compared with the stage before it.

    Args:
        text: The text.
        recording: Whose stages they are.

    Returns:
        The stages, as written.

    Raises:
        InputError: It has another form, or there is no such stage.
    """
    names = text.strip().split(BETWEEN)
    if len(names) == 1 and names[0]:
        after = recording.stage(names[0])
        index = recording.stages.index(after)
        return recording.stages[max(index - 1, 0)], after
    if len(names) != 2 or not any(names):
        raise InputError(
            "this is no range of stages",
            where=f"the recording of {recording.model} with {recording.recipe}",
            expected=f"two stages, such as {recording.names[0]}{BETWEEN}{recording.names[-1]}",
            got=repr(text),
            hint="one stage alone is compared with the one before it",
        )
    first, second = (name.strip() for name in names)
    before = recording.stage(first) if first else recording.stages[0]
    return before, recording.stage(second) if second else recording.last


def _entry(value: str | Source | tuple[str, ...]) -> str:
    """A source, an argument, a tensor or an output, as text."""
    if isinstance(value, Source):
        node = value.node if not value.output else f"{value.node}:{value.output}"
        return f"{value.argument}={node}" if value.argument else node
    if isinstance(value, str):
        return value
    name, *rest = value
    return f"{name}={' '.join(rest)}"
