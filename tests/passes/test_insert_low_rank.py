from __future__ import annotations

import pytest
import torch

from starquant_fx.calibration.activations import site_activations, transformed_tokens
from starquant_fx.errors import PassError
from starquant_fx.operators import op
from starquant_fx.passes import FoldSgat, InsertLowRank, InsertQuantizers, MeasureSites
from starquant_fx.passes.insert_low_rank import principal_directions
from tests.small_models import masked_ids
from tests.small_programs import continued, logits, relative, rewritten, site_of, until

BEFORE = until("estimate-means")


def test_directions_are_each_states_own() -> None:
    x = torch.diag(torch.tensor([5.0, 3.0, 1.0])).repeat(2, 1)
    x[3:, 2] = 9.0
    u = principal_directions(x, torch.tensor([0, 0, 0, 1, 1, 1]), 3, 1)
    assert u[0, :, 0].abs().tolist() == pytest.approx([1, 0, 0], abs=1e-6)
    assert int(u[1, :, 0].abs().argmax()) == 2
    assert not bool(u[2].any())  # no token was in this state


def test_fewer_tokens_than_channels_give_the_same_directions() -> None:
    x = torch.randn(7, 12, generator=torch.Generator().manual_seed(0))
    (few,) = principal_directions(x, torch.zeros(7), 1, 3)
    moment = (x.T @ x).double()
    (whole,) = torch.linalg.eigh(moment).eigenvectors[None, :, -3:].float()
    assert float((few.T @ few - torch.eye(3)).abs().max()) < 1e-6
    assert torch.allclose(few @ few.T, whole @ whole.T, atol=1e-5)
    assert int((few[:, -1] @ whole).abs().argmax()) == 2  # in the same order, the leading one last
    (same,) = principal_directions(x[:1].expand(7, 12), torch.zeros(7), 1, 3)
    assert float((same.T @ same - torch.eye(3)).abs().max()) < 1e-6
    assert float(same[:, -1] @ x[0]) ** 2 == pytest.approx(float(x[0] @ x[0]), rel=1e-5)


@pytest.mark.parametrize("kind", ["odd", "dream", "bert"])
def test_it_changes_nothing_before_the_quantizers(kind: str) -> None:
    program = rewritten(kind, BEFORE)
    after = continued(program, InsertLowRank(rank=5))
    ids = masked_ids(kind, (2, 9), 0.5)
    got, expected = logits(after.module, ids), logits(program.module, ids)
    assert relative(got, expected) < 1e-5
    assert not torch.equal(got, expected)


def test_what_bypasses_is_gone_from_what_the_quantizer_reads() -> None:
    after = continued(rewritten("odd", BEFORE), InsertLowRank(rank=3), InsertQuantizers())
    for site, tokens, label in site_activations(after):
        rest = transformed_tokens(after, site, tokens, label)
        u = after.tensor(after.site_node(site, "split").args[2])  # type: ignore[arg-type]
        for state in (0, 1):
            assert float((rest[label == state] @ u[state]).abs().max()) < 1e-4


def test_a_branch_of_full_rank_leaves_nothing_to_quantize() -> None:
    after = continued(
        rewritten("odd", BEFORE),
        InsertLowRank(rank=999),
        InsertQuantizers(),
        FoldSgat(),
        MeasureSites(),
    )
    assert all(after.findings[s.name]["error"] < 1e-8 for s in after.quantized_sites())


def test_more_directions_less_error() -> None:
    errors = []
    for rank in (1, 4, 16):
        after = continued(
            rewritten("dream", BEFORE),
            InsertLowRank(rank=rank),
            InsertQuantizers(),
            FoldSgat(),
            MeasureSites(),
        )
        errors.append(sum(after.findings[s.name]["error"] for s in after.quantized_sites()))
    assert errors[0] > errors[1] > errors[2]


def test_only_the_chosen_roles_get_a_branch() -> None:
    after = continued(rewritten("dream", BEFORE), InsertLowRank(rank=2, sites="o+down"))
    assert len(after.nodes(op("split_low_rank"))) == 2 * 3
    assert after.site_nodes(site_of(after, "o"), "split")
    assert not after.site_nodes(site_of(after, "q"), "split")


@pytest.mark.parametrize(
    ("options", "where"), [({"rank": 0}, "rank"), ({"sites": "o+dwon"}, "sites")]
)
def test_unusable_options_are_refused(options: dict[str, object], where: str) -> None:
    with pytest.raises(PassError) as caught:
        InsertLowRank(**options).check_options()  # type: ignore[arg-type]
    assert caught.value.where == where
