"""Several threads that compile one model, or load one folder, at once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import starquant_fx
from starquant_fx.compiled import CompiledModel
from tests.compile_cases import small
from tests.models import checkpoints

RECIPE = small("star-w4a4")
IDS = torch.randint(0, 44, (4, 12), generator=torch.Generator().manual_seed(0))


@functools.cache
def right(folder: Path) -> tuple[nn.Module, CompiledModel]:
    """A model of one block, and what compiling it gives, which is saved as well."""
    model, _ = starquant_fx.from_pretrained(
        checkpoints.write_llada(folder / "source", n_layers=1)[0]
    )
    one = starquant_fx.compile(model, RECIPE, calibration=IDS)
    one.save(folder / "packed")
    return model, one


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("threads")


@pytest.mark.usefixtures("captures_anew")
@pytest.mark.parametrize("what", ["compile", "load"])
def test_threads_wait_for_each_other(what: str, folder: Path) -> None:
    model, one = right(folder)
    make: Callable[[], Any] = {
        "compile": lambda: starquant_fx.compile(model, RECIPE, calibration=IDS),
        "load": lambda: starquant_fx.load(folder / "packed"),
    }[what]
    with ThreadPoolExecutor(2) as pool:
        made = [job.result() for job in [pool.submit(make) for _ in range(4)]]
    expected = one(IDS).logits
    for other in made:
        torch.testing.assert_close(other(IDS).logits, expected, rtol=0, atol=0)
