"""The folders at the root are importable under one name only."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDERS = ("kernels", "lowering", "passes")
RunPython = Callable[[str, Path], "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize("name", ["lowering", "passes"])
def test_import_from_the_root_is_refused_with_the_right_name(
    root: Path, run_python: RunPython, name: str
) -> None:
    result = run_python(f"import {name}", root)
    assert result.returncode == 1
    expected = f"{name!r} is not a package of its own: import it as 'starquant_fx.{name}'"
    assert result.stderr.strip().splitlines()[-1] == f"ImportError: {expected}"


@pytest.mark.parametrize("code", ["from kernels import reference", "import kernels.reference"])
def test_nothing_can_be_imported_from_kernels_at_the_root(
    root: Path, run_python: RunPython, code: str
) -> None:
    result = run_python(code, root)
    assert result.returncode == 1
    assert "Error" in result.stderr.strip().splitlines()[-1]
    assert "kernels" in result.stderr.strip().splitlines()[-1]


def test_transformers_can_probe_for_its_own_kernels_package(
    root: Path, run_python: RunPython
) -> None:
    code = "from transformers.utils import is_kernels_available as probe; print(probe())"
    result = run_python(code, root)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["False"]


@pytest.mark.parametrize("place", ["checkout", "elsewhere"])
def test_all_three_import_as_subpackages(
    root: Path, tmp_path: Path, run_python: RunPython, place: str
) -> None:
    cwd = root if place == "checkout" else tmp_path
    code = "".join(
        f"import starquant_fx.{name} as package; print(package.__name__, package.__file__)\n"
        for name in FOLDERS
    )
    result = run_python(code, cwd)
    assert result.returncode == 0, result.stderr
    found = dict(line.split() for line in result.stdout.splitlines())
    assert {name: Path(file).resolve() for name, file in found.items()} == {
        f"starquant_fx.{name}": root / name / "__init__.py" for name in FOLDERS
    }
