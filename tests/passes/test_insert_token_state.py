from __future__ import annotations

import dataclasses

import pytest
import torch

from starquant_fx.errors import PassError
from starquant_fx.operators import op
from starquant_fx.passes import InsertTokenState
from starquant_fx.passes.insert_token_state import state_node
from tests.small_models import MASK, masked_ids
from tests.small_programs import continued, logits, rewritten, until, values

BEFORE = until("assign-roles")


def test_the_state_is_computed_from_the_ids() -> None:
    program = rewritten("odd", BEFORE)
    assert not program.nodes(op("token_state"))
    after = continued(program, InsertTokenState())
    (node,) = after.nodes(op("token_state"))
    assert state_node(after) is node
    assert node.args[1] == MASK["odd"]
    assert after.states == 2


def test_the_state_is_an_input_without_a_mask_token() -> None:
    program = rewritten("odd", BEFORE)
    program = dataclasses.replace(program, mask_token_id=None)
    after = continued(program, InsertTokenState())
    inputs = [n.target for n in after.graph.nodes if n.op == "placeholder"]
    assert inputs == ["input_ids", "token_state"]
    ids = masked_ids("odd", (2, 5), 0.5)
    assert torch.equal(logits(after.module, ids, ids % 2), logits(program.module, ids))


def test_edges_refine_the_state_by_the_mask_ratio() -> None:
    after = continued(rewritten("odd", BEFORE), InsertTokenState(edges=(0.3, 0.6)))
    assert after.states == 6
    ids = torch.tensor([[1, 2, 3, 4], [60, 60, 3, 4], [60, 60, 60, 4]])
    (label,) = values(after.module, [state_node(after)], ids)
    assert label.tolist() == [[0, 0, 0, 0], [3, 3, 2, 2], [5, 5, 5, 4]]


@pytest.mark.parametrize(
    "edges", [(0.6, 0.3), (0.0,), (1.0,), (0.5, 0.5), (-0.1,), (0.2, 1.5), ("a",)]
)
def test_edges_that_do_not_ascend_between_zero_and_one_are_refused(edges: tuple[float]) -> None:
    program = rewritten("odd", BEFORE)
    with pytest.raises(PassError, match="insert-token-state: bad bucket edges") as caught:
        continued(program, InsertTokenState(edges=edges))
    assert str(edges) in str(caught.value)
