from __future__ import annotations

import pytest
import torch

from starquant_fx.hadamard import core_order, hadamard


@pytest.mark.parametrize("size", [*range(1, 65), 148, 192, 640, 3584])
def test_every_size_has_an_orthogonal_matrix_without_large_entries(size: int) -> None:
    matrix = hadamard(size).double()
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size).double(), atol=1e-5, rtol=0)
    scaled = matrix.abs() * size**0.5
    if core_order(size) is None:
        assert 0 < float(scaled.min()) < float(scaled.max()) <= 2**0.5 * 1.001
    else:
        torch.testing.assert_close(scaled, torch.ones_like(scaled), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("size", "core"),
    [(1, 1), (4096, 1), (12, 12), (640, 20), (12288, 12), (36, 36), (148, 148), (3584, 28)],
)
def test_cores_of_real_widths(size: int, core: int) -> None:
    """20 = 19 + 1 is Paley's first construction; 28 = 2 (13 + 1), 36 and 148 = 2 (73 + 1) his second."""
    assert core_order(size) == core


@pytest.mark.parametrize("size", [3, 37, 2, 74, 52])
def test_no_core_where_none_is_known_here(size: int) -> None:
    assert core_order(size) == (1 if size == 2 else None)
