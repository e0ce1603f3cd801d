"""Small runs that the tests of streaming share."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import torch

import starquant_fx
from starquant_fx.checkpoint.format import RUN_FILE
from starquant_fx.compiled import CompiledModel
from starquant_fx.recipe import Recipe
from tests.compile_cases import small

IDS = torch.randint(0, 44, (20, 12), generator=torch.Generator().manual_seed(3))
"""More sequences than a chunk has, without mask tokens."""


def recipe(name: str, ignore: tuple[str, ...] | None = None) -> Recipe:
    """A recipe with little calibration and a short fit."""
    chosen = small(name)
    calibration = dataclasses.replace(chosen.calibration, samples=len(IDS))
    chosen = dataclasses.replace(chosen, calibration=calibration)
    return chosen if ignore is None else dataclasses.replace(chosen, ignore=ignore)


def stream(source: Path, target: Path, chosen: str | Recipe = "rtn-w4a4", **options: Any) -> Path:
    one = recipe(chosen) if isinstance(chosen, str) else chosen
    options = {"calibration": IDS, **options}
    return starquant_fx.compile_folder(source, target, one, **options)


@functools.cache
def whole(source: Path, chosen: Recipe, calibrated: bool = True) -> CompiledModel:
    """What ``compile`` makes of the same model; nothing is written into it."""
    model, tokenizer = starquant_fx.from_pretrained(source)
    calibration = IDS if calibrated else None
    return starquant_fx.compile(model, chosen, calibration=calibration, tokenizer=tokenizer)


def contents(folder: Path) -> dict[str, bytes]:
    """What is in a checkpoint's files, but for the times."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != RUN_FILE}
