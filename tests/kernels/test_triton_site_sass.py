"""What the activation kernels are compiled to at the sizes of LLaDA-8B and Dream-7B, read from their machine code."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from starquant_fx.kernels import triton
from starquant_fx.kernels.triton.predict import CHIPS
from tests.kernels.sass import PRODUCT_MODULES, launched

LIMIT = {str(chip): facts.shared for chip, facts in CHIPS.items()}
"""Bytes of shared memory that a program may have."""
ROOT = Path(__file__).parents[2]
WITHOUT_PRODUCTS = ("gate", "squares", "enter", "float32")
"""Kernels that multiply no matrices, or by ordinary instructions."""
Table = dict[str, dict[str, Any]]


QUICK, MORE = ("90",), ("80", "86", "89")
"""Chips that are compiled for at once, each by a process of its own."""
EVERY = pytest.mark.parametrize(
    "chip", [*QUICK, *(pytest.param(chip, marks=pytest.mark.slow) for chip in MORE)]
)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Table]:
    """Facts by kernel, for a chip; from processes that do not interpret."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}

    @functools.cache
    def together(chips: tuple[str, ...]) -> dict[str, Table]:
        running = []
        for chip in chips:
            environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
            command = [sys.executable, "-m", "tests.kernels.triton_site_kernels", chip]
            running.append(
                subprocess.Popen(
                    command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE
                )
            )
        found: dict[str, Table] = {}
        for process in running:
            output, _ = process.communicate()
            assert process.returncode == 0
            found |= json.loads(output)
        return found

    return lambda chip: together(QUICK if chip in QUICK else MORE)[chip]


@EVERY
def test_nothing_spills_and_shared_memory_suffices(
    compiled: Callable[[str], Table], chip: str
) -> None:
    for name, facts in compiled(chip).items():
        assert (facts["stack"], facts["spills"]) == (0, 0), name
        assert facts["shared"] <= LIMIT[chip], name


def test_products_of_sm_90_wait_for_copies(compiled: Callable[[str], Table]) -> None:
    """See ``Facts.unfenced``; Triton puts the fence there since 3.7."""
    for name, facts in compiled("90").items():
        assert not facts["unfenced"], name


@EVERY
def test_products_are_on_tensor_cores(compiled: Callable[[str], Table], chip: str) -> None:
    for name, facts in compiled(chip).items():
        assert (facts["products"] > 0) == (not name.startswith(WITHOUT_PRODUCTS)), name


@EVERY
def test_memory_is_read_and_written_in_wide_pieces(
    compiled: Callable[[str], Table], chip: str
) -> None:
    for name, facts in compiled(chip).items():
        assert facts["loads of 16 bytes"], name
        assert not facts["loads of less than 4 bytes"], name
        assert not facts["stores of less than 4 bytes"], name
        # Rows of 28 and 148 codes are not a multiple of 16 bytes; the sum of a token's squares is one number.
        # The threads of a small float32 tile have fewer than 16 codes in a row.
        narrow = name.startswith(("squares", "float32 kron")) or name.endswith(("x28", "148"))
        assert bool(facts["stores of 16 bytes"]) != narrow, name


@pytest.mark.parametrize(
    "chip", [*QUICK, *(pytest.param(chip, marks=pytest.mark.slow) for chip in ("80", "86"))]
)
def test_no_kernel_of_the_package_is_left_out(compiled: Callable[[str], Table], chip: str) -> None:
    """Those of ``PRODUCT_MODULES`` are compiled by ``test_triton_gemm_sass.py``, which asserts the same of them."""
    expected = {name for name in launched(triton) if not name.startswith(PRODUCT_MODULES)}
    assert {facts["name"] for facts in compiled(chip).values()} == expected
