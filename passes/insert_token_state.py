"""Insert token state: from the ids (masked = the mask token), or as an input of the graph."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import fx

from starquant_fx.errors import PassError
from starquant_fx.operators import op
from starquant_fx.pass_base import Pass, Preserves
from starquant_fx.program import Program, facts, note

INPUT = "token_state"
"""Name of the graph input when the state cannot be computed from the ids."""


@dataclasses.dataclass(frozen=True)
class InsertTokenState(Pass):
    """Adds the node that says which state each token is in.

    Attributes:
        edges: Inner edges of mask-ratio buckets, ascending in (0, 1); each bucket doubles the number of states.
    """

    name: ClassVar[str] = "insert-token-state"
    after: ClassVar[tuple[str, ...]] = ("assign-roles",)
    preserves: ClassVar[Preserves] = Preserves.BITWISE
    edges: tuple[float, ...] = ()

    def check_options(self) -> None:
        """The edges ascend in (0, 1)."""
        numbers = all(isinstance(edge, (int, float)) for edge in self.edges)
        ascending = numbers and all(
            a < b for a, b in zip((0.0, *self.edges), (*self.edges, 1.0), strict=True)
        )
        self.expect(
            ascending,
            "bad bucket edges",
            where="edges",
            expected="ascending in (0, 1)",
            got=self.edges,
        )

    def requires(self, program: Program) -> None:
        """The graph takes token ids."""
        self.expect(
            program.placeholder("input_ids") is not None,
            "the graph takes no token ids",
            where="input_ids",
            expected="an input named input_ids",
            got=str([n.name for n in program.graph.nodes if n.op == "placeholder"]),
        )

    def run(self, program: Program) -> Program:
        """Inserts the node right after the inputs."""
        ids = program.placeholder("input_ids")
        last = [n for n in program.graph.nodes if n.op == "placeholder"][-1]
        assert ids is not None
        with program.graph.inserting_after(last):
            if program.mask_token_id is None:
                state = program.graph.placeholder(INPUT)
                state.meta["val"] = torch.empty_like(ids.meta["val"])
            else:
                state = program.graph.call_function(op("token_state"), (ids, program.mask_token_id))
        program.ratio_edges = self.edges
        if self.edges:
            keep = program.placeholder("attention_mask")
            with program.graph.inserting_after(state):
                state = program.graph.call_function(
                    op("ratio_state"), (state, keep, list(self.edges))
                )
        note(state, part="state")
        return program

    def ensures(self, program: Program) -> None:
        """The state is there."""
        state_node(program)


def state_node(program: Program) -> fx.Node:
    """The node that holds the token state [B, L].

    Raises:
        PassError: There is none.
    """
    for node in program.graph.nodes:
        if facts(node).get("part") == "state":
            return node
    raise PassError(
        "the graph has no token state", expected="a node made by insert-token-state", got="none"
    )
