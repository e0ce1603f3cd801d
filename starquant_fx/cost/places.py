"""Where a node belongs: its role, its site, and the pass that made it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

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
    if site_name in sites:
        role = known.get("role")
        if known.get("part") in ("low_rank", "state_bias") and linears:
            role = of_linear[linears[0]][1]
        return Place(role or "+".join(sites[site_name].roles) + " site", site_name, made)
    return Place(OPERATORS.get(name, OTHER), "", made)


def _linear_of(constant: fx.Node) -> str:
    """Name of the linear that a constant belongs to, if its name is one of a linear's."""
    name = str(constant.target).removeprefix(f"{CONSTANTS}.").removeprefix("folded.")
    return name.rpartition(".")[0]
