"""The layout of weight codes: by hand, back and forth, and without values."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from starquant_fx.kernels.triton.layout import row_bytes, tile_pack, tile_unpack


def test_a_byte_holds_channels_64_apart_in_twos_complement() -> None:
    codes = torch.zeros(1, 256, dtype=torch.int8)
    codes[0, 5], codes[0, 5 + 64], codes[0, 128 + 63] = -8, 7, -1
    packed = tile_pack(codes, 4)
    assert packed.dtype == torch.uint8
    assert packed.shape == (1, 128)
    assert {i: hex(v) for i, v in enumerate(packed[0].tolist()) if v} == {5: "0x78", 127: "0xf"}


def test_wider_codes_take_a_byte_each() -> None:
    packed = tile_pack(torch.tensor([[-128, 127, -1]], dtype=torch.int8), 8)
    assert packed.shape == (1, 128)
    assert packed[0, :4].tolist() == [128, 127, 255, 0]


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize(("rows", "features"), [(3, 1), (2, 64), (5, 128), (1, 300), (0, 7)])
def test_back_and_forth(bits: int, rows: int, features: int) -> None:
    g = torch.Generator().manual_seed(0)
    half = 2 ** (bits - 1)
    codes = torch.randint(-half, half, (rows, features), dtype=torch.int8, generator=g)
    packed = tile_pack(codes, bits)
    assert packed.shape == (rows, row_bytes(features, bits))
    assert torch.equal(tile_unpack(packed, bits, features), codes)


@pytest.mark.parametrize("bits", [4, 8])
def test_without_values(bits: int) -> None:
    with FakeTensorMode():
        packed = tile_pack(torch.empty(6, 200, dtype=torch.int8), bits)
        assert packed.shape == (6, row_bytes(200, bits))
        assert tile_unpack(packed, bits, 200).shape == (6, 200)
