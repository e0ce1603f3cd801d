from __future__ import annotations

import torch
from torch import Tensor

from starquant_fx.calibration.tac import TacOptions, choose, estimate
from starquant_fx.kernels.reference import compensate


def held_out(noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """Full, quantized = full turned by a fixed matrix + noise, and sequences of 25 tokens."""
    generator = torch.Generator().manual_seed(0)
    full = torch.randn(200, 8, generator=generator)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=generator))[0]
    quantized = full @ turn + noise * torch.randn(200, 8, generator=generator)
    return full, quantized, torch.arange(200) // 25


def test_held_out_choice_corrects_what_can_be_corrected_and_little_else() -> None:
    options = TacOptions(estimator="ridge")
    clear = choose(*held_out(0.01), 8, options)
    assert clear.shrink == 0.0  # all singular values are one, so smoothing them changes nothing
    generator = torch.Generator().manual_seed(1)
    full = torch.randn(60, 8, generator=generator)
    # Nothing but noise, from few tokens: the identity, up to its bias, is best.
    vague = choose(
        full,
        full + 0.3 * torch.randn(60, 8, generator=generator),
        torch.arange(60) // 6,
        8,
        TacOptions(estimator="covariance"),
    )
    assert vague.shrink >= 0.5


def test_the_choice_has_the_least_error_on_the_held_out_sequences() -> None:
    full, quantized, sequence = held_out(0.5)
    options = TacOptions(estimator="ridge")

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
