"""The closed form of TAC, against cases computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from starquant_fx.calibration.tac import TacOptions, estimate
from starquant_fx.errors import RecipeError

PLAIN: dict[str, Any] = {"damping": 0.0, "eps": 0.0, "smooth": 0.0, "shrink": 0.0, "scaled": False}
ESTIMATORS = ("covariance", "ridge")
ROOT = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
"""Root of [[5, 4], [4, 5]]."""


def cross(first: float, second: float) -> Tensor:
    """Four samples with mean 0 and covariance diag(first^2, second^2) / 2."""
    return torch.tensor([[first, 0.0], [-first, 0.0], [0.0, second], [0.0, -second]])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_identical_statistics_of_full_rank_give_the_identity(estimator: str) -> None:
    x = torch.randn(200, 12, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 2, 12)
    x = x @ torch.randn(12, 12, generator=torch.Generator().manual_seed(1)) + 3
    matrix, bias = estimate(x, x, 4, TacOptions(**PLAIN, estimator=estimator))
    torch.testing.assert_close(matrix, torch.eye(4).repeat(3, 1, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(bias, torch.zeros(12), atol=1e-4, rtol=0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_scaled_quantized_output_is_scaled_back(estimator: str) -> None:
    full = cross(6.0, 4.0)
    quantized = full / torch.tensor([3.0, 4.0])  # covariance diag(2, 1/2)
    matrix, bias = estimate(full, quantized, 2, TacOptions(**PLAIN, estimator=estimator))
    torch.testing.assert_close(matrix[0], torch.diag(torch.tensor([3.0, 4.0])))
    torch.testing.assert_close(bias, torch.zeros(2))


def test_damping_smoothing_and_shrinking_of_the_covariance_form() -> None:
    full, quantized = cross(6.0, 4.0), cross(2.0, 1.0)  # covariances diag(18, 8), diag(2, 1/2)
    options = TacOptions(damping=0.2, eps=0.25, smooth=0.0, shrink=0.0, scaled=False)
    matrix, _ = estimate(full, quantized, 2, options)  # delta = 0.2 * 2.5 / 2 + 0.25 = 0.5
    first, second = math.sqrt(18 / 2.5), math.sqrt(8 / 1.0)
    torch.testing.assert_close(matrix[0], torch.diag(torch.tensor([first, second])))
    options = TacOptions(damping=0.2, eps=0.25, smooth=0.5, shrink=0.25, scaled=False)
    matrix, _ = estimate(full, quantized, 2, options)
    mean = (first + second) / 2
    expected = [0.75 * (0.5 * s + 0.5 * mean) + 0.25 for s in (first, second)]
    torch.testing.assert_close(matrix[0], torch.diag(torch.tensor(expected)))


def test_damping_of_the_ridge_form() -> None:
    full, quantized = cross(6.0, 4.0), cross(2.0, 1.0)  # cross-covariance diag(6, 2)
    options = TacOptions(
        damping=0.2, eps=0.25, smooth=0.0, shrink=0.0, estimator="ridge", scaled=False
    )
    matrix, _ = estimate(full, quantized, 2, options)
    torch.testing.assert_close(matrix[0], torch.diag(torch.tensor([6 / 2.5, 2 / 1.0])))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_means_and_correlated_channels(estimator: str) -> None:
    quantized = cross(math.sqrt(8), math.sqrt(8))  # covariance 4 I
    full = quantized / 2 @ ROOT  # covariance [[5, 4], [4, 5]]
    options = TacOptions(**PLAIN, estimator=estimator)
    matrix, bias = estimate(
        full + torch.tensor([1.0, 2.0]), quantized + torch.tensor([3.0, -1.0]), 2, options
    )
    torch.testing.assert_close(matrix[0], torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
    torch.testing.assert_close(bias, torch.tensor([-1.5, 1.5]))  # (1, 2) - M (3, -1)


def test_singular_values_move_towards_their_mean_then_the_matrix_to_the_identity() -> None:
    quantized = cross(math.sqrt(8), math.sqrt(8))
    full = quantized / 2 @ ROOT  # M0 has singular values 1.5 and 0.5
    options = TacOptions(damping=0.0, eps=0.0, smooth=0.5, shrink=0.2, scaled=False)
    matrix, _ = estimate(full, quantized, 2, options)
    torch.testing.assert_close(matrix[0], torch.tensor([[1.0, 0.2], [0.2, 1.0]]))


def test_the_ridge_form_turns_what_was_turned() -> None:
    quantized = cross(2.0, 1.0)
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    options = TacOptions(**PLAIN, estimator="ridge")
    matrix, _ = estimate(quantized @ turn.T, quantized, 2, options)
    torch.testing.assert_close(matrix[0], turn)


def test_only_the_ridge_form_uses_the_pairing() -> None:
    quantized = cross(2.0, 1.0)
    mirrored = -quantized  # the same covariance, paired with the opposite sample
    matrix, _ = estimate(mirrored, quantized, 2, TacOptions(**PLAIN, estimator="covariance"))
    torch.testing.assert_close(matrix[0], torch.eye(2))
    matrix, _ = estimate(mirrored, quantized, 2, TacOptions(**PLAIN, estimator="ridge"))
    torch.testing.assert_close(matrix[0], -torch.eye(2))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_channel_is_mixed_within_its_block_only(estimator: str) -> None:
    generator = torch.Generator().manual_seed(3)
    full, quantized = (torch.randn(64, 6, generator=generator) for _ in range(2))
    options = TacOptions(estimator=estimator)
    together, bias = estimate(full, quantized, 2, options)
    for block in range(3):
        columns = slice(2 * block, 2 * block + 2)
        alone, own = estimate(full[:, columns], quantized[:, columns], 2, options)
        torch.testing.assert_close(together[block], alone[0])
        torch.testing.assert_close(bias[columns], own)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("rows", [1, 3])
def test_few_or_constant_samples_give_finite_corrections(estimator: str, rows: int) -> None:
    x = torch.ones(rows, 8)
    matrix, bias = estimate(x, 2 * x, 8, TacOptions(estimator=estimator))
    assert bool(torch.isfinite(matrix).all())
    corrected = torch.einsum("bij,nbj->nbi", matrix, (2 * x).unflatten(1, (1, 8))).flatten(1) + bias
    torch.testing.assert_close(corrected, x)


@pytest.mark.parametrize(
    "options",
    [{"damping": -1.0}, {"eps": -1e-9}, {"smooth": 1.5}, {"shrink": -0.1}, {"estimator": "mean"}],
)
def test_constants_out_of_range_are_refused(options: dict[str, float | str]) -> None:
    with pytest.raises(RecipeError, match="TAC"):
        TacOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_units_of_the_channels_do_not_matter_where_it_is_scaled(estimator: str) -> None:
    g = torch.Generator().manual_seed(0)
    full = torch.randn(300, 8, generator=g) @ torch.randn(8, 8, generator=g) + 1
    quantized = full + 0.1 * torch.randn(300, 8, generator=g)
    units = torch.tensor([1.0, 100.0, 1.0, 10.0, 1.0, 1.0, 0.01, 1.0])
    options = TacOptions(damping=0.05, eps=0.0, estimator=estimator, scaled=True)
    matrix, bias = estimate(full, quantized, 4, options)
    loud, loud_bias = estimate(full * units, quantized * units, 4, options)
    blocks = units.view(2, 4)
    torch.testing.assert_close(loud, blocks[:, :, None] * matrix / blocks[:, None])
    torch.testing.assert_close(loud_bias, bias * units, rtol=1e-4, atol=1e-4)


def test_a_loud_channel_damps_the_quiet_ones_of_the_papers_form() -> None:
    quantized = cross(100.0, 1.0)
    paper, scaled = (
        estimate(quantized, quantized, 2, TacOptions(damping=0.01, scaled=s, smooth=0, shrink=0))[0]
        for s in (False, True)
    )
    assert float(paper[0, 1, 1]) < 0.2  # full precision itself would be crushed
    assert float(scaled[0, 1, 1]) > 0.98


def test_a_channel_without_variance_stays_finite() -> None:
    full = cross(1.0, 0.0)
    matrix, bias = estimate(full, full, 2, TacOptions(scaled=True))
    assert bool(matrix.isfinite().all())
    assert bool(bias.isfinite().all())
