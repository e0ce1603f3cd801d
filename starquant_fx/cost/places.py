"""Where a node belongs: its role, its site, and the pass that made it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from torch import fx

from starquant_fx.cost.calls import operator_name
from starquant_fx.program import CONSTANTS, Site, facts

OPERATORS = {
    "aten.scaled_dot_product_attention": "attention",
    "starquant.attention": "attention",
    "aten.embedding": "embedding",
    "starquant.rotary": "rotary",
}
"""Roles of operators that belong to no site."""
OTHER = "norms, residuals, rest"
CAPTURE, LOWERING = "capture", "lowering"
"""Who made a node that no pass made: it was in the model, or the target put it there."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a node belongs.

    Attributes:
        role: Roles of its linears (``q+k+v``), the same with ``site`` behind it for what stands before them,
            ``attention``, ``embedding`` or ``rotary``.
        site: Name of its site; empty = none.
        by: The pass that made it.
    """

    role: str
    site: str
    by: str


def places(nodes: Sequence[fx.Node], sites: Mapping[str, Site]) -> dict[fx.Node, Place]:
    """The place of every node.

    Args:
        nodes: Of a captured or lowered graph.
        sites: The program's.
    """
    of_linear = {
        linear: (site, role)
        for site in sites.values()
        for linear, role in zip(site.linears, site.roles, strict=True)
    }
    return {node: _place(node, sites, of_linear) for node in nodes}


def _place(
    node: fx.Node, sites: Mapping[str, Site], of_linear: Mapping[str, tuple[Site, str]]
) -> Place:
    known, name = facts(node), operator_name(node.target)
    made = known.get("by") or (LOWERING if name.startswith("starquant.") else CAPTURE)
    read = [_linear_of(n) for n in node.all_input_nodes if n.op == "get_attr"]
    linears = list(dict.fromkeys(one for one in read if one in of_linear))
    if "of" in known and known["of"] in of_linear and not linears:
        linears = [known["of"]]
    product = "linear" in name
    if product and linears:
        site = of_linear[linears[0]][0]
        return Place("+".join(of_linear[one][1] for one in linears), site.name, made)
    site_name = str(known.get("site", ""))
    if name.startswith("starquant.") and site_name not in sites:  # the target made it
        near = map(_site_made, node.all_input_nodes) if product else _sites_read(node)
        site_name = next((one for one in near if one in sites), "")
        if product and site_name:
            return Place("+".join(sites[site_name].roles), site_name, made)
    if site_name in sites:
        role = known.get("role")
        if known.get("part") in ("low_rank", "state_bias") and linears:
            role = of_linear[linears[0]][1]
        return Place(role or "+".join(sites[site_name].roles) + " site", site_name, made)
    return Place(OPERATORS.get(name, OTHER), "", made)


def _site_made(node: fx.Node) -> str:
    """The site of the operator whose result a node is or takes."""
    if operator_name(node.target) == "python.getitem":
        node = node.all_input_nodes[0]
    return str(facts(node).get("site", ""))


def _sites_read(node: fx.Node) -> Iterator[str]:
    """The sites of what reads a node's results."""
    for user in node.users:
        if operator_name(user.target) == "python.getitem":
            yield from _sites_read(user)
        else:
            yield str(facts(user).get("site", ""))


def _linear_of(constant: fx.Node) -> str:
    """Name of the linear that a constant belongs to, if its name is one of a linear's."""
    name = str(constant.target).removeprefix(f"{CONSTANTS}.").removeprefix("folded.")
    return name.rpartition(".")[0]
