from __future__ import annotations

import pytest
import torch

from starquant_fx.errors import PassError
from starquant_fx.operators import op
from starquant_fx.passes import EstimateMeans, InsertCentering
from tests.small_programs import continued, rewritten, until


def test_one_center_a_site_and_one_bias_row_a_linear() -> None:
    program = rewritten("dream", until("insert-partition"))
    after = continued(program, InsertCentering())
    assert len(after.nodes(op("center"))) == 12
    assert len(after.nodes(op("add_state_bias"))) == 21
    for bias in after.nodes(op("add_state_bias")):
        (reader,) = bias.users
        assert reader.target == op("scatter")


def test_means_and_bias_rows_start_at_zero() -> None:
    after = continued(rewritten("odd", until("insert-partition")), InsertCentering())
    for name in ("center", "add_state_bias"):
        for node in after.nodes(op(name)):
            table = after.tensor(node.args[2])  # type: ignore[arg-type]
            assert table.shape[0] == 2
            assert not bool(torch.count_nonzero(table))


def test_only_the_sites_of_the_chosen_roles_are_centred() -> None:
    before = rewritten("dream", until("insert-partition"))
    chosen = continued(before, InsertCentering(sites="o+down"), EstimateMeans())
    assert len(chosen.nodes(op("center"))) == 6
    assert len(chosen.nodes(op("add_state_bias"))) == 6
    roles = {
        role for s in chosen.quantized_sites() if chosen.site_nodes(s, "center") for role in s.roles
    }
    assert roles == {"o", "down"}


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(PassError, match="unknown role"):
        InsertCentering(sites="o+dwon").check_options()
