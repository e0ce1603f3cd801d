"""From nodes of torch.fx to nodes of a recording."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import fx

from starquant_fx.cost.calls import bound, operator_name
from starquant_fx.cost.places import Place, places
from starquant_fx.cost.shapes import Shape
from starquant_fx.inspection.counting import Counter
from starquant_fx.inspection.reading import Read, Reader
from starquant_fx.inspection.recording import Node, Source
from starquant_fx.pass_manager import CAPTURED
from starquant_fx.program import Program, Site, facts

LOWER = "lower"
"""The stage that a target makes, and who made its nodes."""
ENDS = {"placeholder": "input", "output": "output"}


class Describer:
    """Describes the nodes of one compilation.

    Args:
        program: As captured: its first input is ``input_ids`` [B, L].
        shape: The forward that is counted.
    """

    def __init__(self, program: Program, shape: Shape) -> None:
        self._reader = Reader(program)
        self._counter = Counter(shape, self._reader.rename)
        self._known: dict[fx.Node, tuple[tuple[Any, ...], Node]] = {}
        self._places: Mapping[fx.Node, Place] = {}

    def nodes(
        self, module: fx.GraphModule, program: Program, before: Mapping[str, Node], stage: str
    ) -> dict[str, Node]:
        """The nodes of a stage, without constants, sizes, and takers of one of several results.

        Args:
            module: The graph.
            program: Whose sites it computes.
            before: The nodes of the stage before.
            stage: This one's name.

        Returns:
            By name, in order. A node that did not change is the object that it was.
        """
        found: dict[str, Node] = {}
        if stage == LOWER:  # targets note nothing on what they make
            self._places = places(list(module.graph.nodes), program.sites)
        for node in module.graph.nodes:
            if self._reader.is_shown(node):
                found[node.name] = self._described(node, program, found, before)
        return found

    def _described(
        self,
        node: fx.Node,
        program: Program,
        found: Mapping[str, Node],
        before: Mapping[str, Node],
    ) -> Node:
        # what takes one of several results is described by its reader, so that its arguments matter, too
        inputs = [one for n in node.all_input_nodes for one in (n.meta.get("val"), n.args)]
        custom, value = node.meta.get("custom"), node.meta.get("val")
        key = (node.args, node.kwargs, node.target, custom, value, len(program.sites), *inputs)
        earlier = self._known.get(node)
        if earlier is not None and _same(earlier[0], key):
            return earlier[1]
        made = self._node(node, program, found, before)
        old = before.get(node.name)
        if old is not None and old == made:
            made = old
        self._known[node] = key, made
        return made

    def _node(
        self,
        node: fx.Node,
        program: Program,
        found: Mapping[str, Node],
        before: Mapping[str, Node],
    ) -> Node:
        given: dict[str, Any] = {}
        if node.op != "placeholder":
            given = {"": node.args[0]} if node.op == "output" else bound(node)
        read = self._reader.read(given)
        operator = ENDS.get(node.op) or operator_name(node.target)
        old = before.get(node.name)
        earlier = old if old is not None and old.operator == operator else None
        known = self._facts(node, operator, earlier, old, program)
        site = program.sites.get(str(known.get("site", "")))
        outputs = self._reader.outputs(node)
        counted = self._counter.count(node, outputs, read, found)
        return Node(
            name=node.name,
            operator=operator,
            module=_module(node, known, site, read.sources, found),
            sources=tuple(read.sources),
            outputs=outputs,
            tensors=tuple(read.tensors),
            arguments=tuple(read.arguments),
            role=str(known.get("role", "")),
            site="" if site is None else site.name,
            part=str(known.get("part", "")),
            linear=str(known.get("of", "")),
            made_by=str(known.get("by", CAPTURED)),
            made_from=_origin(known, earlier, read, before),
            bits=_bits(operator, given, known, site, read.sources, found),
            flops=counted and counted[0],
            bytes=counted and counted[1],
        )

    def _facts(
        self,
        node: fx.Node,
        operator: str,
        earlier: Node | None,
        old: Node | None,
        program: Program,
    ) -> dict[str, Any]:
        """What passes noted on a node; of one that a target made where it belongs, and the node whose name it took."""
        known, place = facts(node), self._places.get(node)
        if place is None or earlier is not None:
            return known
        made: dict[str, Any] = {"by": LOWER, "made_from": () if old is None else (old.name,)}
        if place.site:
            made["site"] = place.site
        if place.site and "linear" in operator:
            site = program.sites[place.site]
            linear = dict(zip(site.roles, site.linears, strict=True)).get(place.role, "")
            made |= {"part": "quantized_linear", "role": place.role, "of": linear}
        return made


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


def _module(
    node: fx.Node,
    known: Mapping[str, Any],
    site: Site | None,
    sources: list[Source],
    found: Mapping[str, Node],
) -> str:
    """The module that a node stands in: its own, its linear's, its site's, or that of what it reads."""
    stack = node.meta.get("nn_module_stack")
    if stack:
        path = str(list(stack.values())[-1][0])
        return path.partition(".")[2]  # the first is the wrapper that returns logits only
    if known.get("of"):
        return str(known["of"])
    if site is not None:
        parent = site.name.rpartition(".")[0]
        own = f"{'+'.join(site.roles)} site"
        return f"{parent}.{own}" if parent else own
    return found[sources[0].node].module if sources and sources[0].node in found else ""


def _origin(
    known: Mapping[str, Any], earlier: Node | None, read: Read, before: Mapping[str, Node]
) -> tuple[str, ...]:
    """Nodes of the stage before that a node replaced, or else those that it was put behind."""
    if earlier is not None:
        return earlier.made_from
    told = tuple(name for name in known.get("made_from", ()) if name in before)
    return told or tuple(dict.fromkeys(s.node for s in read.sources if s.node in before))


def _bits(
    operator: str,
    given: Mapping[str, Any],
    known: Mapping[str, Any],
    site: Site | None,
    sources: list[Source],
    found: Mapping[str, Node],
) -> str:
    """For example ``a4`` of a quantizer, ``w4`` of a weight, ``w4a4`` of a product of both."""
    if known.get("part") == "quantized_linear" and site is not None:
        return str(site.options)
    before = [found[s.node].bits for s in sources if s.node in found]
    if known.get("part") == "linear":
        read = "".join(sorted(before, reverse=True))
        return read if re.fullmatch(r"(w\d+)?(a\d+)?", read) else ""
    bits = given.get("weight_bits", given.get("bits"))
    if isinstance(bits, int):
        of_weight = "weight" in operator or "of" in known
        return f"{'w' if of_weight else 'a'}{bits}"
    return before[0] if "dequantize" in operator and before else ""
