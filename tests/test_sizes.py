"""Sizes: what ``memory_limit``, ``shard_bytes`` and ``max_shard_size`` take."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import starquant_fx
from starquant_fx.sizes import in_bytes, shown_size


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


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (5, "5 B"),
        (999, "999 B"),
        (2048, "2.05 kB"),
        (999_600, "1.00 MB"),
        (13_240_000, "13.2 MB"),
        (8 * 1024**3, "8.59 GB"),
        (1_234_000_000_000, "1.23 TB"),
    ],
)
def test_how_a_size_is_shown(size: int, shown: str) -> None:
    assert shown_size(size) == shown


def test_sizes_are_shown_by_one_function() -> None:
    found = [
        f"{path.name}: {line.strip()}"
        for path in Path(starquant_fx.__file__).parent.rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"""["'].*\}\s?[KMG]i?B\b(?!/s)""", line)
    ]
    assert found == []
