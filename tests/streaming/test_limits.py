"""Sizes, limits of memory, and recipes that do not go block by block."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from starquant_fx.errors import ConfigError, InputError, RecipeError
from starquant_fx.passes import RefineSgat
from starquant_fx.streaming.memory import (
    forget_peak,
    parse_size,
    peak_resident,
    resident,
)
from tests.models import checkpoints
from tests.streaming.cases import contents, recipe, stream


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GiB", 8 * 1024**3),
        ("8gib", 8 * 1024**3),
        ("1.5 GB", 1_500_000_000),
        ("500M", 500_000_000),
        ("64KiB", 65536),
        ("123", 123),
        (456, 456),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GiB", "8 GiBs", "-1", "0", "1e9", "8 G i B", "8iB", True, 0, None]
)
def test_what_is_no_size(text: object) -> None:
    with pytest.raises(ConfigError, match="this is no size") as caught:
        parse_size(text)  # type: ignore[arg-type]
    assert caught.value.hint


def test_resident_memory_is_known() -> None:
    assert 10**7 < resident() <= peak_resident() < 10**12


def test_a_limit_that_is_passed_ends_the_run_and_a_higher_one_goes_on(
    llada: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="more memory than it may") as caught:
        stream(llada, tmp_path / "a", memory_limit="1MiB")
    assert "at most 1.05 MB" in str(caught.value)
    assert not (tmp_path / "a").exists()
    right = contents(stream(llada, tmp_path / "b"))
    assert contents(stream(llada, tmp_path / "a", memory_limit="1TiB")) == right


def test_a_pass_that_learns_through_blocks(llada: Path, tmp_path: Path) -> None:
    chosen = recipe("star-w4a4")
    passes = list(chosen.passes)
    at = [one.name for one in passes].index("fit-sgat") + 1
    passes.insert(at, RefineSgat())

    with pytest.raises(RecipeError, match="does not go block by block"):
        stream(llada, tmp_path / "a", dataclasses.replace(chosen, passes=tuple(passes)))
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_transformers(tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    folder.mkdir()
    checkpoints.write_bert(folder)
    checkpoints.write_tokenizer(folder)
    with pytest.raises(InputError, match="cannot be built again"):
        stream(folder, tmp_path / "a")
    assert not (tmp_path / "a.unfinished").exists()


def test_what_the_process_did_before_is_not_counted() -> None:

    torch.ones(100_000_000)
    before = peak_resident()
    forget_peak()
    assert peak_resident() < before - 200_000_000
