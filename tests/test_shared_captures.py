"""What tests share of captures is what each would have captured."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from starquant_fx.capture import capture, skeleton
from starquant_fx.program import Program, facts
from starquant_fx.recipes import get_recipe
from tests.small_models import MASK, masked_ids, model, randomize
from tests.small_programs import logits


def captured(source: nn.Module, kind: str) -> Program:
    return capture(source, get_recipe("rtn-w8a8"), mask_token_id=MASK[kind])


def other(kind: str) -> nn.Module:
    """A model of the same structure with other weights."""
    return randomize(copy.deepcopy(model(kind)), seed=99)


def text(program: Program) -> list[tuple[str | None, str]]:
    """The nodes, and what is noted on them."""
    return [(n.format_node(), str(facts(n))) for n in program.graph.nodes]


@pytest.mark.parametrize(
    "kind",
    [
        *("dream", "odd", "bert"),
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("llada", "modernbert")),
    ],
)
def test_a_shared_capture_is_a_fresh_one(kind: str, request: pytest.FixtureRequest) -> None:
    captured(model(kind), kind)
    shared = captured(other(kind), kind)
    without = captured(skeleton(other(kind)), kind)
    request.getfixturevalue("captures_anew")
    fresh = captured(other(kind), kind)
    assert text(shared) == text(fresh)
    assert text(without) == text(fresh)
    assert shared.tensors().keys() == fresh.tensors().keys()
    assert all(torch.equal(t, fresh.tensors()[n]) for n, t in shared.tensors().items())
    ids = masked_ids(kind, (3, 7), 0.5)
    assert torch.equal(logits(shared.module, ids), logits(fresh.module, ids))
    torch.testing.assert_close(logits(shared.module, ids), logits(other(kind), ids))


def test_what_differs_is_not_shared() -> None:
    plain, changed = other("bert"), other("bert")
    for module in changed.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 0.1
    ids = masked_ids("bert", (2, 5), 0.5)
    wanted = [logits(one, ids) for one in (plain, changed)]
    assert not torch.allclose(wanted[0], wanted[1])
    for one, right in zip((plain, changed), wanted, strict=True):
        torch.testing.assert_close(logits(captured(one, "bert").module, ids), right)
    double = copy.deepcopy(plain).double()
    assert logits(captured(double, "bert").module, ids).dtype == torch.float64
