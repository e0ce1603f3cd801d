from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from starquant_fx import compile as compile_model
from starquant_fx import load_artifact, save_artifact
from starquant_fx.passes import QuantizeEmbedding
from starquant_fx.recipes import get_recipe
from tests.small_models import KINDS, masked_ids, model
from tests.small_programs import continued, distance, logits, rewritten, until

EMBEDDING = torch.ops.aten.embedding.default


@pytest.mark.parametrize("kind", KINDS)
def test_lookups_of_tokens_restore_rows_to_half_a_level(kind: str) -> None:
    before = rewritten(kind, until("fold-sgat", "rtn-w4a4"), "rtn-w4a4")
    after = continued(before, QuantizeEmbedding())
    (lookup,) = (n for n in before.nodes(EMBEDDING) if n.args[1].op == "placeholder")  # type: ignore[union-attr]
    tied = any(user.target != EMBEDDING for user in lookup.args[0].users)  # type: ignore[union-attr]
    names = {str(n.args[0]) for n in after.nodes(EMBEDDING) if n.args[1].op == "placeholder"}  # type: ignore[union-attr]
    assert len(names) == (1 if tied else 2)
    assert bool(after.findings.get("notes")) == tied
    ids = masked_ids(kind, (2, 9), 0.5)
    if tied:
        assert torch.equal(logits(after.module, ids), logits(before.module, ids))
        return
    weight = before.tensor(lookup.args[0])  # type: ignore[arg-type]
    (node,) = (
        n
        for n in after.graph.nodes
        if n.target == torch.ops.aten.mul.Tensor and n.args[0].target == EMBEDDING
    )
    restored = after.evaluate(node, {n: ids for n in after.graph.nodes if n.op == "placeholder"})
    rows = weight[ids]
    assert ((restored - rows).abs() <= 0.51 * rows.abs().amax(-1, keepdim=True) / 127).all()
    assert 0 < distance(restored, rows) < 1e-4


def test_a_tied_embedding_is_quantized_if_the_head_is() -> None:
    recipe = get_recipe("rtn+embed8-w4a4[role:head=w8a8]")
    for kind in KINDS:
        program = rewritten(kind, recipe.passes, recipe)
        assert not any("not quantized" in note for r in program.records for note in r.notes)


def test_bfloat16_rows_stay_bfloat16_and_artifacts_hold_the_codes(tmp_path: Path) -> None:
    given = copy.deepcopy(model("llada")).to(torch.bfloat16)
    ids = masked_ids("llada", (4, 16), 0.0)
    plain, small = (
        compile_model(given, name, calibration=ids) for name in ("rtn-w4a4", "rtn+embed8-w4a4")
    )
    (table,) = (m for m in given.modules() if isinstance(m, torch.nn.Embedding))
    rows, width = table.weight.shape
    saved = plain.report.bytes_after - small.report.bytes_after
    assert saved == rows * (2 * width - width - 4)
    masked = masked_ids("llada", (2, 9), 0.5)
    assert small(masked).logits.dtype == torch.bfloat16
    again = load_artifact(given, save_artifact(small, tmp_path / "a.safetensors"))
    assert torch.equal(again(masked).logits, small(masked).logits)
