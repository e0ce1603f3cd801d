"""What the operators before a product refuse, and which bases they have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from starquant_fx.errors import InputError
from starquant_fx.kernels.triton import covers, tile_prepare, tile_site

D, TOKENS = 32, 4


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


STATE = zeros(TOKENS, dtype=torch.int64)
SITE: dict[str, Any] = {
    **{"x": zeros(TOKENS, D), "eps": None, "state": STATE, "shift": zeros(2, D)},
    **{"factors": [torch.eye(8), torch.eye(4)], "structure": "kronecker", "shared": 0},
    **{"bounds": [], "bits": 4, "symmetric": False, "clip": zeros(2)},
}
PREPARE: dict[str, Any] = {
    **{"x": zeros(TOKENS, D), "eps": None, "matrix": zeros(4, 8, 8), "state": STATE},
    **{"shift": zeros(2, D), "directions": zeros(2, D, 8), "reduce": zeros(2, D, 8)},
    "start": zeros(2, 8),
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"factors": [torch.eye(8), torch.eye(8)]},
        {"factors": [zeros(2, 8, 8)], "structure": "block"},
        {"factors": [torch.eye(16)], "structure": "dense"},
        {"structure": "zigzag"},
        {"state": zeros(1, dtype=torch.int64)},
        {"state": zeros(TOKENS)},
        {"shift": zeros(2, 16)},
        {"bits": 9},
        {"bits": 1},
        {"x": zeros(TOKENS, D, dtype=torch.int8)},
        {"clip": zeros(3)},
        {"bounds": [0, 40]},
        {"bounds": [3]},
        {"shared": 33},
        {"state": None},
        {"state": None, "shift": None, "bounds": [0, 8, 8, 16]},
        {"bounds": [0, 8]},
        {"bounds": [0, 8, 8, 16, 16, 24]},
    ],
    ids=lambda wrong: ",".join(wrong),
)
def test_sites_refuse(wrong: dict[str, Any]) -> None:
    tile_site(**SITE)
    with pytest.raises(InputError, match="cannot take these tensors") as refusal:
        tile_site(**{**SITE, **wrong})
    assert refusal.value.where == "starquant::tile_site"


@pytest.mark.parametrize(
    "wrong",
    [
        {"matrix": zeros(8, 8, 8)},
        {"matrix": zeros(2, 12, 12)},
        {"state": zeros(1, dtype=torch.int64)},
        {"shift": zeros(2, 16)},
        {"shift": zeros(3, D)},
        {"directions": zeros(2, 16, 8)},
        {"reduce": zeros(2, D, 4)},
        {"start": zeros(1, 8)},
        {"state": None},
        {"reduce": None},
        {"directions": None},
        {"x": zeros(TOKENS, D, dtype=torch.int8)},
    ],
    ids=lambda wrong: ",".join(wrong),
)
def test_what_stands_before_refuses(wrong: dict[str, Any]) -> None:
    tile_prepare(**PREPARE)
    with pytest.raises(InputError, match="cannot take these tensors") as refusal:
        tile_prepare(**{**PREPARE, **wrong})
    assert refusal.value.where == "starquant::tile_prepare"


@pytest.mark.parametrize(
    ("structure", "sizes", "dtype", "covered"),
    [
        ("kronecker", (128, 32), torch.bfloat16, True),
        ("kronecker", (128, 148), torch.bfloat16, True),
        ("kronecker", (32, 32), torch.float32, True),
        ("kronecker", (33, 32), torch.float32, False),
        ("hadamard", (32, 33), torch.float32, False),
        ("kronecker", (128, 5), torch.float32, False),
        ("kronecker", (256, 64), torch.bfloat16, False),
        ("hadamard", (64, 256), torch.bfloat16, False),
        ("hadamard", (148, 128), torch.bfloat16, False),
        ("block", (128,), torch.bfloat16, True),
        ("block", (64,), torch.float32, True),
        ("block", (65,), torch.float32, False),
        ("block", (256,), torch.bfloat16, False),
        ("zigzag", (8,), torch.float32, False),
    ],
)
def test_bases_that_every_chip_has_room_for(
    structure: str, sizes: tuple[int, ...], dtype: torch.dtype, covered: bool
) -> None:
    shapes = [(2, size, size) if structure == "block" else (size, size) for size in sizes]
    assert covers(structure, [zeros(*shape) for shape in shapes], dtype) is covered
