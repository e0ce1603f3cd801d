"""What the CPU target does to what stands before a site's transforms."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import fx

from starquant_fx.capture import capture
from starquant_fx.kernels import cpu
from starquant_fx.lowering import lower
from starquant_fx.operators import op
from starquant_fx.pass_manager import run_passes
from starquant_fx.passes import Canonicalize
from starquant_fx.program import Program
from starquant_fx.recipe import Recipe
from starquant_fx.recipes import get_recipe
from tests.small_models import MASK, masked_ids, model
from tests.small_programs import calibration, captured, distance

pytestmark = pytest.mark.skipif(cpu.unavailable() is not None, reason=str(cpu.unavailable()))
aten = torch.ops.aten
BEFORE = (aten.rms_norm.default, aten.silu.default)


def calls(graph: fx.Graph, target: Any) -> list[fx.Node]:
    return graph.find_nodes(op="call_function", target=target)


def half_program(kind: str, recipe: Recipe) -> Program:
    """Compiled in bfloat16."""
    given = copy.deepcopy(model(kind)).to(torch.bfloat16)
    program = capture(given, recipe, mask_token_id=MASK[kind])
    program.calibration = calibration(kind)
    return run_passes(program, recipe.passes)


@pytest.mark.parametrize("kind", ["llada", "dream"])
@pytest.mark.parametrize("half", [False, True])
def test_norms_and_gated_activations_are_the_kernels(kind: str, half: bool) -> None:
    recipe = get_recipe("rtn-w8a8[role:head=w8a8]")
    program = (
        half_program(kind, recipe) if half else run_passes(captured(kind, recipe), recipe.passes)
    )
    low, reference = lower(program, "cpu"), lower(program, "reference")
    assert not any(calls(low.graph, target) for target in BEFORE)
    assert all(calls(reference.graph, target) for target in BEFORE)
    options = [node.args[7:] for node in calls(low.graph, op("site_codes"))]
    assert sum(eps is not None for _, eps in options) == len(calls(reference.graph, BEFORE[0]))
    assert sum(other is not None for other, _ in options) == len(calls(reference.graph, BEFORE[1]))
    ids = masked_ids(kind, (3, 9), 0.5)
    found, expected = (module(ids).float() for module in (low, reference))
    assert distance(found, expected) < (1e-3 if half else 1e-4)


def test_a_norm_that_something_else_reads_stays() -> None:
    program = run_passes(captured("llada", "rtn-w4a4"), get_recipe("rtn-w4a4").passes)
    norm = program.nodes(BEFORE[0])[0]
    head = program.nodes(aten.linear.default)[-1]
    program.follow(head, aten.add.Tensor, (head, norm))
    assert len(calls(lower(program, "cpu").graph, BEFORE[0])) == 2, "that norm and the head's"


def test_a_norm_with_a_gain_stays() -> None:
    recipe = get_recipe("rtn-w4a4")
    recipe = dataclasses.replace(
        recipe, passes=(Canonicalize(fold_gains=False), *recipe.passes[1:])
    )
    program = run_passes(captured("llada", recipe), recipe.passes)
    low = lower(program, "cpu")
    assert len(calls(low.graph, BEFORE[0])) == len(program.nodes(BEFORE[0]))
