"""Assign roles: what each linear does is read off the dataflow, never off a name."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import fx

from starquant_fx.errors import nearest
from starquant_fx.pass_base import Pass, Preserves
from starquant_fx.program import ATTENTION, LINEAR, Program, Site, facts, note
from starquant_fx.recipe import matches

aten = torch.ops.aten
ACTIVATIONS = (
    aten.silu.default,
    aten.gelu.default,
    aten.relu.default,
    aten.tanh.default,
    aten.sigmoid.default,
)
BETWEEN_MLP = (
    *ACTIVATIONS,
    aten.mul.Tensor,
    aten.chunk.default,
    aten.split.Tensor,
    aten.view.default,
    aten._to_copy.default,
    aten.dropout.default,
    aten.clone.default,
    operator.getitem,
)
"""What may stand between the linears of one MLP; a norm or a residual addition ends it."""
BEFORE_OUTPUT_PROJECTION = (
    aten.transpose.int,
    aten.permute.default,
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.flatten.using_ints,
    aten.clone.default,
    aten.contiguous.default,
    aten._to_copy.default,
    aten.dropout.default,
)
ATTENTION_ROLES = ("q", "k", "v")


@dataclasses.dataclass(frozen=True)
class AssignRoles(Pass):
    """Gives every linear a role (q, k, v, qkv, o, gate, up, gate_up, down, head, dense) and groups them into sites."""

    name: ClassVar[str] = "assign-roles"
    after: ClassVar[tuple[str, ...]] = ("canonicalize",)
    preserves: ClassVar[Preserves] = Preserves.BITWISE

    def run(self, program: Program) -> Program:
        """Notes roles on the linears, makes the sites, keeps the graph as the full-precision reference."""
        linears = program.nodes(LINEAR)
        self.assign(linears)
        groups: dict[fx.Node, list[fx.Node]] = {}
        for linear in linears:
            groups.setdefault(linear.args[0], []).append(linear)  # type: ignore[arg-type]
        for source, members in groups.items():
            site = _site(program, members)
            program.sites[site.name] = site
            for linear in members:
                note(linear, site=site.name, part="linear")
            note(source, feeds=site.name)
        program.keep_stage(self.name)
        return program

    def assign(self, linears: list[fx.Node]) -> None:
        """Notes the role of every linear."""
        for linear in linears:
            note(linear, role=_role(linear))
        for linear in linears:
            _refine_mlp(linear)

    def ensures(self, program: Program) -> None:
        """Every linear belongs to a site, the recipe's patterns mean some, and at least one site is to be quantized."""
        for pattern in program.recipe.patterns():
            linears = [name for site in program.sites.values() for name in site.linears]
            self.expect(
                any(matches(pattern, s.linears, s.roles) for s in program.sites.values()),
                "a pattern of the recipe matches no linear",
                where=pattern,
                expected=f"a name, re:... or role:... that matches one of {len(linears)} linears",
                got="no match",
                hint=nearest(
                    pattern.split(".")[-1].lstrip("*"), [n.split(".")[-1] for n in linears]
                ),
            )
        left = [n for n in program.nodes(LINEAR) if facts(n).get("site") not in program.sites]
        self.expect(
            not left, "a linear has no site", where=str(left[:1]), expected="a site", got="none"
        )
        self.expect(
            any(program.quantized_sites()),
            "the recipe leaves every linear in full precision",
            where=program.recipe.name,
            expected="at least one quantized site",
            got=f"{len(program.sites)} sites, all ignored",
            hint="check the recipe's ignore patterns",
        )


def _site(program: Program, members: list[fx.Node]) -> Site:
    names = tuple(str(facts(m)["of"]) for m in members)
    roles = tuple(str(facts(m)["role"]) for m in members)
    weights = [m.args[1].meta["val"] for m in members]  # type: ignore[union-attr]
    options, reason = program.recipe.for_site(names, roles)
    obstacle = _obstacle(program, members)
    if obstacle is not None:
        options, reason = None, obstacle
    return Site(
        name=names[0],
        linears=names,
        roles=roles,
        features=weights[0].shape[1],
        outputs=tuple(w.shape[0] for w in weights),
        options=options,
        reason=reason,
    )


def _obstacle(program: Program, members: list[fx.Node]) -> str | None:
    """Why a site cannot be quantized, whatever the recipe says; None if it can."""
    if any(m.args[1].op != "get_attr" for m in members):  # type: ignore[union-attr]
        return "its weight is computed in the graph"
    ids = program.placeholder("input_ids")
    source = members[0].args[0].meta["val"]  # type: ignore[union-attr]
    if ids is None or tuple(source.shape[:-1]) != tuple(ids.meta["val"].shape):
        return f"its input is {list(source.shape)}, not one row a token [B, L, d]"
    return None


def _role(linear: fx.Node) -> str:
    reached, at_output = _reach(linear)
    if reached:
        return "".join(r for r in ATTENTION_ROLES if r in reached)
    if _back(linear.args[0], BEFORE_OUTPUT_PROJECTION, (ATTENTION,)):
        return "o"
    if _back(linear.args[0], BETWEEN_MLP, (LINEAR,)):
        return "down"
    return "head" if at_output else "dense"


def _reach(linear: fx.Node) -> tuple[set[str], bool]:
    """Follows a linear's result to attentions (as q, k or v) and to the output, never through another linear."""
    roles: set[str] = set()
    at_output = False
    seen: set[fx.Node] = set()
    stack: list[tuple[fx.Node, fx.Node]] = [(user, linear) for user in linear.users]
    while stack:
        node, source = stack.pop()
        if node.op == "output":
            at_output = True
        elif node.target == ATTENTION:
            roles |= {r for r, a in zip(ATTENTION_ROLES, node.args, strict=False) if a is source}
        elif node.target != LINEAR and node not in seen:
            seen.add(node)
            stack += [(user, node) for user in node.users]
    return roles, at_output


def _back(start: object, through: Iterable[object], targets: tuple[object, ...]) -> list[fx.Node]:
    """Follows a tensor back through the allowed operators; returns the target nodes it comes from."""
    found: list[fx.Node] = []
    seen: set[fx.Node] = set()
    stack = [start]
    while stack:
        node = stack.pop()
        if not isinstance(node, fx.Node) or node in seen:
            continue
        seen.add(node)
        if node.target in targets:
            found.append(node)
        elif node.target in through:
            stack += node.all_input_nodes
    return found


def _refine_mlp(linear: fx.Node) -> None:
    """Names the linears that feed a down projection: gate (goes through the activation), up, or both at once."""
    if facts(linear)["role"] != "down":
        return
    sources = _back(linear.args[0], BETWEEN_MLP, (LINEAR,))
    if len(sources) == 1:
        chunked = any(u.target in (aten.chunk.default, aten.split.Tensor) for u in sources[0].users)
        note(sources[0], role="gate_up" if chunked else "up")
        return
    for source in sources:
        activated = any(u.target in ACTIVATIONS for u in source.users)
        note(source, role="gate" if activated else "up")
