"""The roles of a part's linears, which only the whole graph tells."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import fx

from starquant_fx.passes import AssignRoles
from starquant_fx.program import LINEAR, Program, facts, note


@dataclasses.dataclass(frozen=True)
class AdoptRoles(AssignRoles):
    """Takes the place of ``assign-roles`` in a part: its linears have the roles that they have in the whole model.

    Attributes:
        roles: By the linear's name.
    """

    roles: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        """Returns the name alone."""
        return self.name

    def assign(self, linears: list[fx.Node]) -> None:
        """Notes the roles."""
        for linear in linears:
            note(linear, role=self.roles[facts(linear)["of"]])

    def ensures(self, program: Program) -> None:
        """Every linear belongs to a site; which the recipe means was checked in the whole model."""
        left = [n for n in program.nodes(LINEAR) if facts(n).get("site") not in program.sites]
        self.expect(
            not left, "a linear has no site", where=str(left[:1]), expected="a site", got="none"
        )
