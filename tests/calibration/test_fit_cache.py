from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from starquant_fx.calibration.fit_cache import FitCache
from starquant_fx.errors import InputError
from starquant_fx.passes import FitSgat
from starquant_fx.passes import fit_sgat as module
from starquant_fx.program import Program
from tests.small_programs import continued, rewritten, until

BEFORE = until("insert-quantizers")
FIT = FitSgat(epochs=1, batch=64)


def fitted(folder: Path, one: FitSgat = FIT) -> Program:
    program = rewritten("odd", BEFORE)
    program.cache = FitCache(folder)
    return continued(program, one)


def tensors(program: Program) -> dict[str, torch.Tensor]:
    return {n: t for n, t in program.tensors().items() if "basis" in n or "clip" in n}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the sites that are really fitted."""
    calls: list[int] = []
    fit: Any = module.fit_site

    def count(*arguments: object) -> object:
        calls.append(1)
        return fit(*arguments)

    monkeypatch.setattr(module, "fit_site", count)
    return calls


def test_what_was_fitted_is_not_fitted_again(tmp_path: Path, counted: list[int]) -> None:
    first = fitted(tmp_path / "new" / "folder")
    sites = len(list(first.quantized_sites()))
    assert len(counted) == sites
    second = fitted(tmp_path / "new" / "folder")
    assert len(counted) == sites
    for name, value in tensors(first).items():
        assert torch.equal(value, tensors(second)[name])
    assert first.findings == second.findings


def test_a_killed_run_loses_only_the_site_in_work(tmp_path: Path, counted: list[int]) -> None:
    fitted(tmp_path)
    sites = len(counted)
    files = sorted(tmp_path.iterdir())
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:100])
    fitted(tmp_path)
    assert len(counted) == sites + 2


@pytest.mark.parametrize(
    "other",
    [
        FitSgat(epochs=2, batch=64),
        FitSgat(epochs=1, batch=64, seed=1),
        FitSgat(epochs=1, batch=64, lr=0.1),
    ],
)
def test_other_options_are_other_fits(tmp_path: Path, counted: list[int], other: FitSgat) -> None:
    fitted(tmp_path)
    sites = len(counted)
    fitted(tmp_path, other)
    assert len(counted) == 2 * sites


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(InputError, match="cache folder"):
        FitCache(tmp_path / "x")
