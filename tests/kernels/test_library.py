"""Where the CPU kernels' library comes from, and why there is none."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from starquant_fx.kernels import cpu
from starquant_fx.kernels.cpu import library

FAKE = """#!/bin/sh
if [ "$1" = --version ]; then echo fake 1.0; exit 0; fi
echo built >> "{log}"
while [ "$1" != -o ]; do shift; done
sleep 0.5
{action}
"""
NO_CODE = 'echo "no such flag" >&2; exit 1'
PROCESS = """
from starquant_fx.kernels.cpu import library
print(library.unavailable())
"""


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that has the instructions, an empty cache of its own, and nothing that was found out before."""
    for name in ("_is_vnni_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    forget()
    yield
    monkeypatch.undo()
    forget()


def forget() -> None:
    for function in (library.unavailable, library._library):
        function.cache_clear()


def compiler(folder: Path, action: str, name: str = "fake-c++") -> Path:
    """A program that takes a compiler's arguments and does something else with ``$2``, the file to make."""
    path = folder / name
    path.write_text(FAKE.format(log=folder / "log", action=action))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "cache").rglob("*"))


def test_a_processor_without_the_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert library.unavailable() == "the processor has no AVX512-VNNI and AVX512-BF16"


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert library.unavailable() == "there is no C++ compiler (g++, clang++, c++, or $CXX)"
    assert not (tmp_path / "cache").exists()


def test_a_build_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chosen = compiler(tmp_path, NO_CODE)
    monkeypatch.setenv("CXX", str(chosen))
    assert library.unavailable() == f"{chosen} failed: no such flag"
    assert library.unavailable() == f"{chosen} failed: no such flag"
    assert (tmp_path / "log").read_text() == "built\n", "it is tried once a process"
    assert left_behind(tmp_path) == ["starquant_fx"]


def test_a_compiler_that_makes_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", str(compiler(tmp_path, "exit 0")))
    assert str(library.unavailable()).startswith("the kernels cannot be built: ")
    assert left_behind(tmp_path) == ["starquant_fx"]


def test_a_compiler_that_makes_something_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", str(compiler(tmp_path, 'echo text > "$2"')))
    reason = str(library.unavailable())
    assert "cannot be loaded: " in reason
    assert str(tmp_path / "cache") in reason


def test_a_compiler_that_cannot_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chosen = compiler(tmp_path, "")
    chosen.write_bytes(b"\x7fELF, but for no machine")
    monkeypatch.setenv("CXX", str(chosen))
    assert str(library.unavailable()).startswith("the kernels cannot be built: ")


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", str(compiler(tmp_path, "exit 0")))
    (tmp_path / "cache").write_text("a file where the folder should be")
    reason = str(library.unavailable())
    assert reason.startswith("the kernels cannot be built: ")
    assert "cache" in reason
    assert not (tmp_path / "log").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_cache_that_may_not_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", str(compiler(tmp_path, "exit 0")))
    (tmp_path / "cache").mkdir(mode=0o500)
    assert "Permission denied" in str(library.unavailable())


def test_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setenv("CXX", str(compiler(tmp_path, "exit 0")))
    assert str(library.unavailable()) == (
        "the kernels cannot be built: Could not determine home directory."
    )


def test_two_processes_at_once_end_with_one_good_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()  # the real cache holds what a real compiler made
    forget()
    if cpu.unavailable() is not None:
        pytest.skip(str(cpu.unavailable()))
    built = library._library()._name
    given = os.environ | {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        # Half of the file at first, so that who took it too early would notice.
        "CXX": str(compiler(tmp_path, f'head -c 20000 {built} > "$2"; sleep 0.5; cp {built} "$2"')),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    running = [
        subprocess.Popen([sys.executable, "-c", PROCESS], env=given, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    assert [process.communicate()[0].strip() for process in running] == [b"None"] * 2
    (made,) = (tmp_path / "cache" / "starquant_fx").iterdir()
    assert made.read_bytes() == Path(built).read_bytes()
    again = subprocess.run(
        [sys.executable, "-c", PROCESS], env=given, capture_output=True, check=True
    )
    assert again.stdout.strip() == b"None"
    assert (tmp_path / "log").read_text().count("built") <= 2, "what is there is not built again"


def test_a_damaged_library_is_built_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", str(compiler(tmp_path, 'echo text > "$2"')))
    library.unavailable()
    (kept,) = (tmp_path / "cache").rglob("*.so")
    kept.write_bytes(b"")
    forget()
    library.unavailable()
    assert kept.read_text() == "text\n"
    assert (tmp_path / "log").read_text() == "built\n" * 2
    forget()
    library.unavailable()
    assert (tmp_path / "log").read_text() == "built\n" * 2, "a whole one is taken as it is"
