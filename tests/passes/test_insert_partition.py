from __future__ import annotations

import torch

from starquant_fx.operators import op
from starquant_fx.passes import InsertPartition
from starquant_fx.program import LINEAR
from tests.small_models import MASK, masked_ids
from tests.small_programs import continued, rewritten, site_of, until, values


def test_one_partition_a_site_and_one_scatter_a_linear() -> None:
    program = rewritten("dream", until("insert-token-state"))
    assert not program.nodes(op("partition"))
    after = continued(program, InsertPartition())
    assert len(after.nodes(op("partition"))) == len(list(after.quantized_sites())) == 12
    assert len(after.nodes(op("scatter"))) == 21
    assert len(after.nodes(LINEAR)) == 22


def test_a_linear_sees_unmasked_tokens_first_and_its_result_is_put_back() -> None:
    after = rewritten("odd", until("insert-partition"))
    site = site_of(after, "q")
    parts = [after.site_node(site, p) for p in ("tokens", "states", "order")]
    ids = masked_ids("odd", (3, 7), 0.5)
    tokens, states, order = values(after.module, parts, ids)
    assert tokens.shape == (21, 36)
    assert torch.equal(states, (ids == MASK["odd"]).long().flatten().sort().values)
    assert torch.equal((ids == MASK["odd"]).long().flatten()[order], states)
    linear, scatter = (after.site_nodes(site, p)[0] for p in ("linear", "scatter"))
    inside, outside = values(after.module, [linear, scatter], ids)
    assert torch.equal(outside.flatten(0, 1)[order], inside)


def test_sites_in_full_precision_are_left_alone() -> None:
    after = rewritten("dream", until("insert-partition"))
    head = next(n for n in after.nodes(LINEAR) if n.meta["val"].shape[-1] == 160)
    assert head.args[0].target != op("partition")  # type: ignore[union-attr]
    assert all(u.op == "output" for u in head.users)
