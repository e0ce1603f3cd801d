"""Several threads that compile one model, or load one folder, at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import starquant_fx
from tests.compile_cases import small
from tests.models import checkpoints

IDS = torch.randint(0, 44, (4, 12), generator=torch.Generator().manual_seed(0))


@pytest.mark.usefixtures("captures_anew")
@pytest.mark.parametrize("what", ["compile", "load"])
def test_threads_wait_for_each_other(what: str, tmp_path: Path) -> None:
    model, _ = starquant_fx.from_pretrained(checkpoints.write_llada(tmp_path / "source")[0])
    recipe = small("star-w4a4")
    right = starquant_fx.compile(model, recipe, calibration=IDS)
    right.save(tmp_path / "packed")
    make: Callable[[], Any] = {
        "compile": lambda: starquant_fx.compile(model, recipe, calibration=IDS),
        "load": lambda: starquant_fx.load(tmp_path / "packed"),
    }[what]
    with ThreadPoolExecutor(2) as pool:
        made = [one.result() for one in [pool.submit(make) for _ in range(4)]]
    expected = right(IDS)
    for one in made:
        torch.testing.assert_close(one(IDS), expected, rtol=0, atol=0)
