from __future__ import annotations

import pytest
import torch
from torch import Tensor

from starquant_fx.errors import PassError
from starquant_fx.pass_manager import check_order
from starquant_fx.passes import EstimateMeans, FitSgat, InsertQuantizers
from starquant_fx.passes.estimate_means import state_means
from starquant_fx.program import Program
from tests.small_models import MASK, masked_ids
from tests.small_programs import (
    captured,
    continued,
    logits,
    relative,
    rewritten,
    site_of,
    until,
    values,
)

BEFORE = until("insert-centering")


def table(program: Program, part: str, which: int = 0) -> Tensor:
    node = program.site_nodes(site_of(program, "gate"), part)[which].args[2]
    return program.tensor(node)  # type: ignore[arg-type]


def test_state_means_are_the_means_pulled_towards_the_overall_one() -> None:
    tokens = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 9.0], [10.0, 3.0]])
    label = torch.tensor([0, 0, 1, 0])
    plain = state_means(tokens, label, 2, prior=0.0)
    torch.testing.assert_close(plain, torch.tensor([[14 / 3, 1.0], [2.0, 9.0]]))
    overall = torch.tensor([4.0, 3.0])
    pulled = state_means(tokens, label, 3, prior=2.0)
    torch.testing.assert_close(pulled[1], (torch.tensor([2.0, 9.0]) + 2 * overall) / 3)
    torch.testing.assert_close(pulled[2], overall)  # a state that was never seen


def test_means_are_those_of_the_calibration_tokens() -> None:
    after = continued(rewritten("odd", BEFORE), EstimateMeans(prior=0.0))
    full = rewritten("odd", until("assign-roles"))
    site = site_of(full, "gate")
    source = full.site_nodes(site, "linear")[0].args[0]
    data = captured("odd").calibration
    assert data is not None
    tokens, masked = [], []
    for ids in data.batches:
        tokens.append(values(full.module, [source], ids)[0].flatten(0, 1))  # type: ignore[list-item]
        masked.append((ids == MASK["odd"]).flatten())
    x, hidden = torch.cat(tokens), torch.cat(masked)
    expected = torch.stack([x[~hidden].mean(0), x[hidden].mean(0)])
    torch.testing.assert_close(table(after, "center"), expected)
    weights = [full.tensor(n.args[1]) for n in full.site_nodes(site, "linear")]  # type: ignore[arg-type]
    for i, weight in enumerate(weights):
        torch.testing.assert_close(table(after, "state_bias", i), expected @ weight.T)


@pytest.mark.parametrize("kind", ["odd", "dream", "bert"])
def test_centring_is_exact_whatever_the_means(kind: str) -> None:
    program = rewritten(kind, BEFORE)
    after = continued(program, EstimateMeans(prior=3.0))
    ids = masked_ids(kind, (3, 10), 0.5)
    assert relative(logits(after.module, ids), logits(program.module, ids)) < 1e-5


def test_centring_takes_the_offset_out_of_what_is_quantized() -> None:
    after = continued(rewritten("odd", BEFORE), EstimateMeans(prior=0.0))
    site = site_of(after, "gate")
    nodes = [after.site_node(site, p) for p in ("tokens", "states", "center")]
    assert after.calibration is not None
    tokens, states, centered = values(after.module, nodes, after.calibration.batches[0])
    for state in (0, 1):
        before, now = (x[states == state].mean(0).norm() for x in (tokens, centered))
        assert now < 0.35 * before  # not zero: the means are those of both batches


def test_it_does_nothing_without_calibration_data() -> None:
    program = rewritten("odd", BEFORE, calibrated=False)
    assert not bool(torch.count_nonzero(table(continued(program, EstimateMeans()), "center")))


def test_means_that_would_come_too_late_are_refused() -> None:
    late = (*until("insert-centering"), InsertQuantizers(), EstimateMeans(), FitSgat())
    with pytest.raises(PassError, match="estimate-means is out of order"):
        check_order(late)
