from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx

from starquant_fx.calibration.activations import FULL_PRECISION_STAGE
from starquant_fx.calibration.spans import block_spans, whole_span
from starquant_fx.calibration.straight_through import StraightThroughRun
from starquant_fx.errors import CalibrationError
from tests.small_models import KINDS
from tests.small_programs import calibration, captured, continued, logits, rewritten, until

BLOCKS = {"llada": 3, "dream": 3, "odd": 1, "bert": 3, "modernbert": 3}
"""Layers, and in transformers' models the dense layer before the head."""
PASSES = until("insert-quantizers")


def inputs(module: fx.GraphModule, ids: torch.Tensor) -> dict[fx.Node, Any]:
    return {n: ids for n in module.graph.nodes if n.op == "placeholder"}


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_one_after_the_other_compute_the_model(kind: str) -> None:
    program = rewritten(kind, PASSES)
    ids = calibration(kind).batches[0]
    for module in (program.module, program.stages[FULL_PRECISION_STAGE]):
        spans = block_spans(program, module.graph)
        assert len(spans) == BLOCKS[kind]
        assert spans[0].start is None
        known = inputs(module, ids)
        whole = StraightThroughRun(module)
        for span in spans:
            assert span.start is None or span.start in known
            known[span.end] = StraightThroughRun(module).compute(span, known)
            assert known[span.end].shape[:2] == ids.shape
        end = whole.compute(whole_span(module.graph), known)
        torch.testing.assert_close(end, logits(module, ids), atol=2e-4, rtol=2e-3)


@pytest.mark.parametrize("kind", ["odd", "dream"])
def test_gradients_reach_bases_clips_and_biases(kind: str) -> None:
    program = rewritten(kind, PASSES)
    nodes = [
        n
        for n in program.graph.nodes
        if n.op == "get_attr"
        and any(p in str(n.target) for p in (".basis_", ".clip", ".state_bias"))
    ]
    tensors = {n: program.tensor(n).clone().requires_grad_() for n in nodes}
    ids = calibration(kind).batches[0]
    out = StraightThroughRun(program.module, tensors).compute(
        whole_span(program.graph), inputs(program.module, ids)
    )
    out.pow(2).mean().backward()
    for node, tensor in tensors.items():
        assert tensor.grad is not None, node.target
        assert bool(torch.isfinite(tensor.grad).all())
        assert float(tensor.grad.abs().max()) > 0


def test_blocks_joined_by_two_tensors_are_refused() -> None:
    program = continued(captured("llada"), *until("assign-roles"))
    first = block_spans(program, program.graph)[0]
    inside = next(
        n for n in first.nodes if n.target == torch.ops.aten.linear.default and n is not first.end
    )
    last = next(iter(reversed(program.graph.nodes)))
    (result,) = last.all_input_nodes
    with program.graph.inserting_before(last):
        both = program.graph.call_function(
            torch.ops.aten.add.Tensor,
            (result, program.graph.call_function(torch.ops.aten.sum.default, (inside,))),
        )
    last.replace_input_with(result, both)
    with pytest.raises(CalibrationError, match="cannot be cut out") as caught:
        block_spans(program, program.graph)
    assert "objective=model" in str(caught.value)
