"""Sizes: what ``memory_limit``, ``shard_bytes`` and ``max_shard_size`` take."""

from __future__ import annotations

import pytest

from starquant_fx.sizes import in_bytes


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ("8GiB", 8 * 1024**3),
        ("8gi", 8 * 1024**3),
        ("5GB", 5 * 10**9),
        (" 1.1 TB ", 1_100_000_000_000),
        ("0.3k", 300),
        ("12B", 12),
        ("9007199254740993", 2**53 + 1),
        (10**9, 10**9),
    ],
)
def test_what_is_a_size(given: str | int, size: int) -> None:
    assert in_bytes(given) == size


@pytest.mark.parametrize(
    "given",
    [
        "",
        "GB",
        "5 bananas",
        "-1",
        "0",
        "0.5",
        "1e9",
        "1.GB",
        "\u0665GB",
        "9" * 400,
        0,
        -1,
        1.5,
        True,
        None,
    ],
)
def test_what_is_none(given: object) -> None:
    assert in_bytes(given) is None
