from __future__ import annotations

import pytest
import torch

from starquant_fx.operators import op
from starquant_fx.passes import RoundTables
from tests.small_models import masked_ids
from tests.small_programs import continued, logits, relative, rewritten, until


@pytest.mark.parametrize("recipe", ["star-w8a8", "star-paper-w8a8"])
def test_every_table_is_rounded_and_little_changes(recipe: str) -> None:
    before = rewritten("llada", until("fold-sgat", recipe), recipe)
    after = continued(before, RoundTables())
    for name, position in (("rotate", 1), ("split_low_rank", 2), ("add_low_rank", 3)):
        for node in after.nodes(op(name)):
            held = node.args[position]
            for table in held if isinstance(held, (list, tuple)) else [held]:
                assert after.tensor(table).dtype == torch.bfloat16  # type: ignore[arg-type]
                old = before.tensor(table)  # type: ignore[arg-type]
                assert old.dtype == torch.float32
                assert relative(after.tensor(table).float(), old) < 2**-8  # type: ignore[arg-type]
    ids = masked_ids("llada", (2, 9), 0.5)
    changed = relative(logits(after.module, ids), logits(before.module, ids))
    assert 0 < changed < 0.05


def test_what_has_no_tables_stays() -> None:
    before = rewritten("odd", until("fold-sgat", "rtn-w4a4"), "rtn-w4a4")
    after = continued(before, RoundTables())
    ids = masked_ids("odd", (2, 9), 0.5)
    assert torch.equal(logits(after.module, ids), logits(before.module, ids))
