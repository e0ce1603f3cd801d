"""Tables of tiles: what is shipped, what a user measures, what is damaged."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from starquant_fx.kernels.triton import configs
from starquant_fx.kernels.triton.predict import families, predict


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    configs.forget()
    yield tmp_path / "starquant_fx"
    configs.forget()


def on_device(chip: int, tokens: int, rows: int, features: int, bits: int) -> configs.Config:
    """``configs.choose`` as on a device."""
    return configs._chosen(chip, bits, rows, features, configs.bucket(tokens), False)


@pytest.mark.parametrize("chip", configs.ARCHITECTURES)
def test_shipped_tables_cover_the_models_and_say_where_they_come_from(chip: int) -> None:
    path = configs.shipped_path(chip)
    table = configs.read_table(path, chip)
    shapes = {shape for model in configs.SHAPES.values() for shape in model.values()}
    assert set(table) == {
        (bits, *shape, tokens) for bits in (4, 8) for shape in shapes for tokens in configs.TOKENS
    }
    origin = json.loads(path.read_text())["origin"]
    assert origin in ("measured", "predicted")
    if origin == "predicted":
        text = configs.table_text(chip, "predicted", configs.predicted_table(chip))
        assert path.read_text() == text


@pytest.mark.parametrize("chip", [75, 80, 86, 89, 90, 100, 120])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 300, 130), (5000, 128, 99999), (1, 200000, 4096)])
def test_any_shape_has_a_tile(chip: int, bits: int, shape: tuple[int, int, int]) -> None:
    tokens, rows, features = shape
    for grouped in (False, True):
        tile = predict(chip, bits, rows, features, tokens, grouped)
        assert tile.split == 1 or tile.split * 4 * 128 <= features + 127
    assert on_device(chip, tokens, rows, features, bits).n in (64, 128, 256)


@pytest.mark.parametrize(
    ("tokens", "expected"), [(0, 32), (1, 32), (32, 32), (33, 128), (16384, 16384), (10**6, 16384)]
)
def test_bucket(tokens: int, expected: int) -> None:
    assert configs.bucket(tokens) == expected


def test_what_was_measured_comes_before_what_is_shipped(cache: Path) -> None:
    key = (4, 12288, 4096, 32)
    shipped = on_device(90, 20, 12288, 4096, 4)
    tile = next(t for t in families(90, 4) if t.t != shipped.t)
    cache.mkdir()
    configs.cache_path(90).write_text(configs.table_text(90, "measured", {key: tile}))
    configs.forget()
    assert on_device(90, 20, 12288, 4096, 4).t == tile.t
    assert on_device(90, 20, 4096, 4096, 4) == on_device(90, 32, 4096, 4096, 4)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"format": 1, "architecture": 80, "entries": []}',
        '{"format": 1, "architecture": 90, "entries": [[4, 12288, 4096, 32, 1, 2]]}',
        '{"format": 1, "architecture": 90, "entries": [[4, 12288, 4096, 32, 48, 64, 4, 5, 1, 1]]}',
        '{"format": 1, "architecture": 90, "entries": [[4, 12288, 4096, 32, "32", 64, 4, 5, 1, 1]]}',
    ],
)
def test_damaged_cache_is_ignored_with_a_warning(
    content: str, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = on_device(90, 32, 12288, 4096, 4)
    cache.mkdir()
    configs.cache_path(90).write_text(content)
    configs.forget()
    with caplog.at_level(logging.WARNING):
        assert on_device(90, 32, 12288, 4096, 4) == expected
    assert str(configs.cache_path(90)) in caplog.text


def test_a_newer_chip_has_measurements_of_its_own(cache: Path) -> None:
    shipped = on_device(100, 32, 12288, 4096, 4)
    assert shipped == on_device(90, 32, 12288, 4096, 4)
    tile = next(t for t in families(100, 4) if t.t != shipped.t)
    cache.mkdir()
    text = configs.table_text(100, "measured", {(4, 12288, 4096, 32): tile})
    configs.cache_path(100).write_text(text)
    configs.forget()
    assert on_device(100, 32, 12288, 4096, 4).t == tile.t
    assert on_device(90, 32, 12288, 4096, 4) == shipped
