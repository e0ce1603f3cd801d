"""Sizes, limits of memory, and recipes that do not go block by block."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from starquant_fx.errors import (
    CalibrationError,
    ConfigError,
    InputError,
    RecipeError,
    StarQuantError,
)
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
    assert "at most 1.05 MB (1,048,576 bytes)" in str(caught.value)
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


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        (3, CalibrationError, "unknown kind"),
        ([3], CalibrationError, "unknown kind"),
        ([""], CalibrationError, "are empty"),
        (["no tokenizer"], CalibrationError, "need a tokenizer"),
        (torch.ones(3, 4), InputError, "wrong dtype"),
        (torch.ones(3).long(), CalibrationError, "wrong shape"),
        (torch.full((2, 4), 10**6), InputError, "out of range"),
        (torch.ones(2, 10**4).long(), InputError, "longer than the model's maximum"),
    ],
)
def test_a_calibration_that_cannot_be_used_leaves_nothing_behind(
    given: Any, kind: type[StarQuantError], said: str, llada: Path, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=said) as caught:
        stream(llada, tmp_path / "a", calibration=given)
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_the_kind_of_the_calibration_is_checked_before_the_model_is_read(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="unknown kind"):
        stream(tmp_path / "nowhere", tmp_path / "a", calibration={"text": "a"})


@pytest.mark.parametrize("progress", [3, "bar", True])
def test_a_progress_that_cannot_be_called(progress: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="progress is not usable"):
        stream(tmp_path / "nowhere", tmp_path / "a", progress=progress)
    assert list(tmp_path.iterdir()) == []


def test_a_limit_without_a_unit_is_said_to_be_bytes(llada: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="more memory than it may") as caught:
        stream(llada, tmp_path / "a", memory_limit="8")
    assert "at most 8 B (8 bytes)" in str(caught.value)
    assert "such as 8GiB (a number alone is bytes)" in str(caught.value)


def test_what_the_process_did_before_is_not_counted() -> None:

    torch.ones(100_000_000)
    before = peak_resident()
    forget_peak()
    assert peak_resident() < before - 200_000_000
