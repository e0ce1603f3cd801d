"""The folders, the three links, the package list and the house rules about files."""

import ast
import itertools
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import starquant_fx

LINKED = ("kernels", "lowering", "passes")
CODE = ("starquant_fx", *LINKED, "tests", "tools", "benchmarks", "examples")
MOST_LINES = 400
# Files that may be longer, each with its reason.
LONGER: dict[str, str] = {
    "kernels/reference.py": "the specification of every operator, read and imported as one",
}


def python_files(root: Path) -> Iterator[Path]:
    for folder in CODE:
        for path in filter(Path.is_file, (root / folder).rglob("*.py")):
            relative = path.relative_to(root)
            through_link = relative.parts[0] == "starquant_fx" and relative.parts[1] in LINKED
            if not through_link:
                yield relative


def package_folders(root: Path) -> dict[str, str]:
    """Every folder that holds Python modules of the product: import name -> folder."""
    found = {}
    for path in python_files(root):
        if path.parts[0] in ("starquant_fx", *LINKED):
            folder = path.parent
            prefix = () if folder.parts[0] == "starquant_fx" else ("starquant_fx",)
            found[".".join((*prefix, *folder.parts))] = folder.as_posix()
    return found


def setuptools_table(root: Path) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text())
    return table["tool"]["setuptools"]


@pytest.mark.parametrize("name", LINKED)
def test_link_is_relative_and_points_at_its_folder(root: Path, name: str) -> None:
    link = root / "starquant_fx" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..", name)
    assert (root / name).is_dir()
    assert not (root / name).is_symlink()


def test_package_list_names_exactly_the_package_folders(root: Path) -> None:
    listed = setuptools_table(root)["packages"]
    assert listed == sorted(listed)
    assert set(listed) == set(package_folders(root))


def test_package_list_names_the_folders_of_the_links(root: Path) -> None:
    mapping = setuptools_table(root)["package-dir"]
    outside = {name: at for name, at in package_folders(root).items() if at.split("/")[0] in LINKED}
    assert mapping == outside


def test_a_new_package_folder_would_be_noticed(tmp_path: Path) -> None:
    for folder in ("starquant_fx", "starquant_fx/new", "passes", "passes/deep"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "module.py").touch()
    assert package_folders(tmp_path) == {
        "starquant_fx": "starquant_fx",
        "starquant_fx.new": "starquant_fx/new",
        "starquant_fx.passes": "passes",
        "starquant_fx.passes.deep": "passes/deep",
    }


def test_every_package_folder_has_an_init_file(root: Path) -> None:
    bare = [
        at for at in package_folders(root).values() if not (root / at / "__init__.py").is_file()
    ]
    assert bare == []


def test_no_file_is_named_after_a_lack_of_purpose(root: Path) -> None:
    vague = {"utils.py", "util.py", "helpers.py", "misc.py", "common.py"}
    assert [str(path) for path in python_files(root) if path.name in vague] == []


def test_no_file_is_too_long(root: Path) -> None:
    lengths = {
        path.as_posix(): len((root / path).read_text().splitlines()) for path in python_files(root)
    }
    too_long = {path for path, lines in lengths.items() if lines > MOST_LINES}
    assert too_long == set(LONGER), "files over the limit and the list of exceptions must agree"


def test_constraints_pin_every_direct_dependency(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        wanted += extra
    lines = (root / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    names = {requirement_name(text) for text in wanted}
    assert names - pinned == set()


def test_every_import_is_declared(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = {e: r for e, r in project["optional-dependencies"].items() if e != "dev"}
    wanted = itertools.chain(project["dependencies"], *extras.values())
    declared = {requirement_name(text) for text in wanted}
    imported = {
        (requirement_name(name), path.as_posix())
        for path in python_files(root)
        if path.parts[0] != "tests"
        for name in imported_packages((root / path).read_text())
        if name not in sys.stdlib_module_names
    }
    assert {"torch", "transformers"} <= {name for name, _ in imported}
    scripts = [p for p in CODE if p not in ("starquant_fx", *LINKED, "tests")]
    own = {requirement_name(one.stem) for place in scripts for one in (root / place).iterdir()}
    own.add("starquant-fx")
    assert {(name, path) for name, path in imported if name not in declared | own} == set()


def imported_packages(source: str) -> Iterator[str]:
    """The packages that a source imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module).split(".")[0]


def test_the_version_is_the_same_everywhere(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert project["version"] == starquant_fx.__version__


def requirement_name(requirement: str) -> str:
    name = requirement
    for mark in ">=<[;! ":
        name = name.split(mark)[0]
    return name.lower().replace("_", "-")
