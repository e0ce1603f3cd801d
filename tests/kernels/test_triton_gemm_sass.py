"""Machine code of linears and heads, compiled ahead of time: tensor cores on int8, no spills, copies of 16 bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from starquant_fx.kernels import triton
from tests.kernels.sass import PRODUCT_MODULES, launched

PRODUCTS = {80: "IMMA.16832.S8.S8", 86: "IMMA.16832.S8.S8", 89: "IMMA.16832.S8.S8", 90: "IGMMA"}
ROOT = Path(__file__).parents[2]


def compiled(chip: int, *arguments: str, cache: Path) -> list[dict[str, Any]]:
    """In a process of its own: the kernels of this one are decorated for the interpreter."""
    environment = {name: v for name, v in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.kernels.compile_gemm", str(chip), *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check_complete(kernels: list[dict[str, Any]]) -> None:
    expected = {name for name in launched(triton) if name.startswith(PRODUCT_MODULES)}
    assert {kernel["name"] for kernel in kernels} == expected


def check(chip: int, kernels: list[dict[str, Any]]) -> None:
    assert kernels
    for kernel in kernels:
        name = " ".join(str(kernel[key]) for key in ("kernel", "bits", "variant", "tile"))
        assert kernel["stack"] == 0, name
        assert not kernel["spills"], name
        assert kernel["shared"] <= kernel["limit"], name
        assert not kernel["unfenced"], name
        if kernel["kernel"] in ("linear", "head"):
            assert kernel["copies"], name
            assert all(copy.endswith(".128") for copy in kernel["copies"]), name
        products = kernel["products"]
        if kernel["bits"] == 16:
            assert any(found.startswith(("HMMA", "HGMMA")) for found in products), name
        elif kernel["kernel"] in ("linear", "head"):
            integer = [found for found in products if found.startswith(PRODUCTS[chip])]
            assert integer, name
            assert all("S8.S8" in found for found in integer), name


@pytest.mark.parametrize(
    "chip", [pytest.param(chip, marks=[pytest.mark.slow] * (chip in (80, 86))) for chip in PRODUCTS]
)
def test_the_tiles_that_are_used_most(chip: int, tmp_path: Path) -> None:
    kernels = compiled(chip, cache=tmp_path)
    check(chip, kernels)
    if chip in (86, 90):
        check_complete(kernels)


@pytest.mark.slow
@pytest.mark.parametrize("chip", PRODUCTS)
def test_every_tile(chip: int, tmp_path: Path) -> None:
    kernels = compiled(chip, "all", cache=tmp_path)
    check(chip, kernels)
    check_complete(kernels)
