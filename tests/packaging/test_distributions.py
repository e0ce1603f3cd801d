"""What the wheel and the source distribution hold."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

NEEDED = ("starquant_fx", "kernels", "lowering", "passes", "tests/packaging")
RunPython = Callable[[str, Path], "subprocess.CompletedProcess[str]"]
FILES = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "constraints.txt")


@pytest.fixture(scope="module")
def built(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``checkout``, the sdist, the wheel built from it, and the one in ``direct``."""
    out = tmp_path_factory.mktemp("dist")
    tree = out / "checkout"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in NEEDED:
        shutil.copytree(root / folder, tree / folder, symlinks=True, ignore=ignore)
    for file in FILES:
        shutil.copy2(root / file, tree / file)
    build: list[str | Path] = [sys.executable, "-m", "build", "--no-isolation"]
    for arguments in ([*build, "--outdir", out], [*build, "--wheel", "--outdir", out / "direct"]):
        result = subprocess.run(
            [*arguments, tree],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout[-4000:]
    return out


def wheel_names(folder: Path) -> list[str]:
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def expected_contents(root: Path) -> set[str]:
    """Sources of the four folders, tables of tiles, the shipped models, texts and page, as paths in the wheel."""
    found = {"starquant_fx/py.typed"}
    for folder in ("kernels", "lowering", "passes"):
        for path in (root / folder).rglob("*"):
            if path.suffix in (".py", ".cpp", ".h", ".json"):
                found.add(f"starquant_fx/{path.relative_to(root).as_posix()}")
    for path in (root / "starquant_fx").rglob("*"):
        relative = path.relative_to(root)
        shipped = (
            path.suffix == ".py"
            or relative.parts[1] == "data"
            or {"pretrained", "viewer"} & {*path.parts}
        )
        if path.is_file() and shipped and "__pycache__" not in path.parts:
            found.add(relative.as_posix())
    return found


def test_wheel_holds_every_file_once(built: Path) -> None:
    names = wheel_names(built)
    assert len(names) == len(set(names))
    contents = {name for name in names if ".dist-info/" not in name}
    assert contents == expected_contents(built / "checkout")


def test_wheel_holds_the_shipped_models(built: Path) -> None:
    names = set(wheel_names(built))
    for model in ("llada-tiny", "dream-tiny"):
        folder = f"starquant_fx/models/pretrained/{model}"
        for file in ("config.json", "tokenizer.json", "README.md"):
            assert f"{folder}/{file}" in names
        assert any(re.fullmatch(rf"{folder}/[^/]*\.safetensors", name) for name in names)


def test_wheel_is_the_same_from_the_checkout_and_from_the_sdist(built: Path) -> None:
    assert sorted(wheel_names(built / "direct")) == sorted(wheel_names(built))


def test_wheel_carries_the_licence_and_the_command(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        assert f"{info}/licenses/LICENSE" in archive.namelist()
        assert "starquant-fx = " in archive.read(f"{info}/entry_points.txt").decode()
        metadata = archive.read(f"{info}/METADATA").decode()
    assert "Name: starquant-fx\n" in metadata
    assert "License-Expression: Apache-2.0\n" in metadata
    assert "Requires-Python: >=3.11\n" in metadata


def test_sdist_has_the_three_folders_at_its_root_and_nothing_twice(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert len(names) == len(set(names))
    for folder in ("kernels", "lowering", "passes"):
        assert f"{folder}/__init__.py" in names
        assert not any(name.startswith(f"starquant_fx/{folder}") for name in names)
    assert not any(name.startswith(("tests", "runs", ".venv")) for name in names)


def test_installed_wheel_imports_away_from_the_checkout(
    built: Path, tmp_path: Path, run_python: RunPython
) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import starquant_fx, starquant_fx.passes, starquant_fx.lowering, starquant_fx.kernels\n"
        "print(starquant_fx.__file__, starquant_fx.passes.__file__)\n"
    )
    result = run_python(code, tmp_path / "site")
    assert result.returncode == 0, result.stderr
    package = tmp_path / "site" / "starquant_fx"
    assert result.stdout.split() == [
        str(package / "__init__.py"),
        str(package / "passes" / "__init__.py"),
    ]
