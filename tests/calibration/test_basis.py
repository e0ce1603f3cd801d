from __future__ import annotations

import pytest
import torch

from starquant_fx.basis import (
    BasisShape,
    balanced_split,
    largest_divisor,
    random_orthogonal,
    start_factors,
)
from starquant_fx.devices import Draws
from starquant_fx.kernels import reference


@pytest.mark.parametrize(
    ("features", "split"),
    [(4096, (64, 64)), (12288, (128, 96)), (3584, (64, 56)), (18944, (148, 128)), (7, (7, 1))],
)
def test_balanced_splits_of_real_widths(features: int, split: tuple[int, int]) -> None:
    assert balanced_split(features) == split


def test_random_orthogonal_has_no_preferred_sign() -> None:
    q = random_orthogonal((400, 3, 3), Draws(0))
    assert float(q.mean(0).abs().max()) < 0.1  # a plain QR has a diagonal of one sign


@pytest.mark.parametrize("structure", ["dense", "kronecker", "block", "hadamard"])
@pytest.mark.parametrize("start", ["gaussian", "hadamard"])
def test_factors_fit_the_shape_and_rotate(structure: str, start: str) -> None:
    shape = BasisShape.choose(structure, 24, 0, 2)
    factors = start_factors(shape, Draws(0), start)
    assert [tuple(f.shape) for f in factors] == shape.factor_shapes()
    x = torch.randn(5, 24, generator=torch.Generator().manual_seed(1))
    rotated = reference.rotate(x, factors, structure)
    torch.testing.assert_close(rotated.norm(dim=1), x.norm(dim=1))
    assert shape.multiply_adds() <= 24 * 24


@pytest.mark.parametrize("states", [2, 4])
def test_gates_partition_what_is_not_shared(states: int) -> None:
    shape = BasisShape.choose("kronecker", 24, 7, 3)
    assert (shape.left, shape.right, shape.rank, shape.shared) == (6, 4, 4, 16)
    table = reference.gate_table(24, shape.shared, shape.bounds(states))
    assert bool(table[:, :16].all())
    for label in range(states):
        own = slice(16, 20) if label % 2 else slice(20, 24)
        assert table[label, 16:].sum() == 4
        assert bool(table[label, own].all())


@pytest.mark.parametrize(
    ("features", "wanted", "divisor"), [(64, 16, 16), (36, 16, 12), (7, 16, 7), (13, 12, 1)]
)
def test_the_largest_divisor_not_above_the_wanted_one(
    features: int, wanted: int, divisor: int
) -> None:
    assert largest_divisor(features, wanted) == divisor
