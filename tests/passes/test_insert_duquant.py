from __future__ import annotations

import pytest
import torch
from torch import Tensor

from starquant_fx.calibration.duquant import outlier_rotation, zigzag
from starquant_fx.devices import Draws
from starquant_fx.errors import PassError
from starquant_fx.operators import op
from starquant_fx.passes import InsertDuquant
from tests.small_models import masked_ids
from tests.small_programs import continued, logits, relative, rewritten, until

BEFORE = until("assign-roles", "rtn-w4a4")


def loud(features: int = 24) -> Tensor:
    x = torch.randn(50, features, generator=torch.Generator().manual_seed(0))
    x[:, 5] *= 40
    return x


def test_rotations_are_orthogonal_and_spread_the_outlier() -> None:
    x = loud()
    turn = outlier_rotation(x, 8, 16, Draws(1))
    identity = torch.eye(8).expand(3, 8, 8)
    torch.testing.assert_close(turn @ turn.mT, identity, atol=1e-5, rtol=0)
    turned = torch.einsum("tbi,bij->tbj", x.unflatten(-1, (3, 8)), turn)
    # An even spread over 8 channels would leave 1 / sqrt(8) = 0.35.
    assert float(turned[:, 0].abs().max()) < 0.5 * float(x.abs().max())
    assert (turned.abs().amax((0, 2)) <= x.unflatten(-1, (3, 8)).abs().amax((0, 2))).all()


def test_blocks_of_one_channel_stay() -> None:
    turn = outlier_rotation(loud(), 1, 9, Draws(1))
    assert torch.equal(turn, torch.ones(24, 1, 1))


def test_zigzag_deals_to_and_fro() -> None:
    x = torch.tensor([[6.0, 5.0, 4.0, 3.0, 2.0, 1.0]])
    # Loudness 6 5 | 4 3 | 2 1 over two blocks: block 0 gets 6, 3, 2 and block 1 gets 5, 4, 1.
    assert zigzag(x, 3).tolist() == [0, 3, 4, 1, 2, 5]


@pytest.mark.parametrize("kind", ["odd", "dream"])
def test_it_changes_nothing_before_the_quantizers(kind: str) -> None:
    program = rewritten(kind, BEFORE, "rtn-w4a4")
    after = continued(program, InsertDuquant(block=16, steps=4))
    ids = masked_ids(kind, (2, 9), 0.5)
    got, expected = logits(after.module, ids), logits(program.module, ids)
    assert relative(got, expected) < 1e-5
    assert not torch.equal(got, expected)
    sites = list(after.quantized_sites())
    assert len(after.nodes(op("rotate"))) == sum(2 + 2 * len(s.linears) for s in sites)


@pytest.mark.parametrize("option", ["block", "steps"])
def test_unusable_options_are_refused(option: str) -> None:
    with pytest.raises(PassError, match="out of range") as caught:
        InsertDuquant(**{option: 0}).check_options()
    assert caught.value.where == option
