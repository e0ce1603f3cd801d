from __future__ import annotations

import pytest
import torch

from starquant_fx.calibration.fake_quantize import fake_quantize_activation, fake_quantize_weight
from starquant_fx.kernels import reference

X = torch.randn(20, 16, generator=torch.Generator().manual_seed(0)) * 3
CLIP = torch.tensor([0.8, 0.9])


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("clip", [None, CLIP])
def test_activations_round_as_the_kernels_do(
    bits: int, symmetric: bool, clip: torch.Tensor | None
) -> None:
    codes, scale, zero = reference.quantize_activation(X, bits, symmetric, clip)
    expected = reference.dequantize_activation(codes, scale, zero, torch.float32)
    torch.testing.assert_close(
        fake_quantize_activation(X, bits, symmetric, clip), expected, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("clip", [None, torch.full((20,), 0.7)])
def test_weights_round_as_the_kernels_do(bits: int, clip: torch.Tensor | None) -> None:
    codes, scale = reference.quantize_weight(X, bits, clip)
    expected = codes * scale[:, None]
    torch.testing.assert_close(fake_quantize_weight(X, bits, clip), expected, atol=1e-4, rtol=0)


def test_gradients_reach_values_and_clip_factors() -> None:
    x, clip = X.clone().requires_grad_(), CLIP.clone().requires_grad_()
    (fake_quantize_activation(x, 3, False, clip) - X).pow(2).sum().backward()
    assert x.grad is not None
    assert clip.grad is not None
    assert bool((clip.grad != 0).all())
    inside = (0.5 * X.amin(1, keepdim=True) < X) & (0.5 * X.amax(1, keepdim=True) > X)
    y = X.clone().requires_grad_()
    fake_quantize_activation(y, 3, False, CLIP)[inside].sum().backward()
    assert y.grad is not None
    torch.testing.assert_close(y.grad[inside], torch.ones(int(inside.sum())), atol=1e-4, rtol=0)


def test_weight_clip_factors_learn() -> None:
    clip = torch.full((20,), 0.9, requires_grad=True)
    (fake_quantize_weight(X, 3, clip) - X).pow(2).sum().backward()
    assert clip.grad is not None
    assert bool((clip.grad != 0).all())
