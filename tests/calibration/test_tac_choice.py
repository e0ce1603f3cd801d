from __future__ import annotations

import torch
from torch import Tensor

from starquant_fx.calibration.tac import (
    TacOptions,
    channel_errors,
    choose,
    estimate,
    moments,
    solve,
)
from starquant_fx.kernels.reference import compensate


def held_out(noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """Full, quantized = full turned by a fixed matrix + noise, and sequences of 25 tokens."""
    generator = torch.Generator().manual_seed(0)
    full = torch.randn(200, 8, generator=generator)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=generator))[0]
    quantized = full @ turn + noise * torch.randn(200, 8, generator=generator)
    return full, quantized, torch.arange(200) // 25


def test_what_can_be_undone_is_not_shrunk_towards_the_identity() -> None:
    full, quantized, sequence = held_out(0.01)
    chosen = choose(full, quantized, sequence, 8, TacOptions(estimator="ridge"))
    assert chosen.shrink == 0.0
    kept = choose(full, full, sequence, 8, TacOptions(damping=0.5))
    matrix, bias = estimate(full, full, 8, kept)
    torch.testing.assert_close(compensate(full, matrix, bias), full, atol=0.01, rtol=0)


def test_errors_from_moments_are_those_of_the_tokens() -> None:
    full, quantized, sequence = held_out(0.5)
    seen, unseen = sequence % 2 == 0, sequence % 2 == 1
    matrix, bias = solve(moments(full[seen], quantized[seen], 4), TacOptions())
    x, target = quantized[unseen].double(), full[unseen].double()
    corrected = (x.unflatten(-1, (-1, 4)).unsqueeze(-2) @ matrix.mT).squeeze(-2) + bias
    direct = (corrected - target.unflatten(-1, (-1, 4))).pow(2).mean(0)
    found = channel_errors(moments(full[unseen], quantized[unseen], 4), matrix, bias)
    torch.testing.assert_close(found, direct)


def test_a_loud_channel_does_not_decide_alone() -> None:
    full, quantized, sequence = held_out(0.5)
    units = torch.tensor([1e4, 1, 1, 1, 1, 1, 1, 1])
    options = TacOptions(estimator="ridge")
    chosen = choose(full * units, quantized * units, sequence, 8, options)
    assert chosen == choose(full, quantized, sequence, 8, options)


def test_the_choice_has_the_least_error_on_the_held_out_sequences() -> None:
    full, quantized, sequence = held_out(0.5)
    options = TacOptions(estimator="ridge", scaled=False)

    def error(tried: TacOptions) -> float:
        held = sequence % 2 == 1
        matrix, bias = estimate(full[~held], quantized[~held], 8, tried)
        return float((compensate(quantized[held], matrix, bias) - full[held]).pow(2).sum())

    chosen = choose(full, quantized, sequence, 8, options)
    assert error(chosen) <= error(options)


def test_one_sequence_leaves_nothing_to_hold_out() -> None:
    full, quantized, _ = held_out(0.1)
    options = TacOptions()
    assert choose(full, quantized, torch.zeros(200).long(), 8, options) is options
