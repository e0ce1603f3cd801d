"""The code that makes what a folder keeps, as one hash: what other code made is made again."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

import starquant_fx

SUFFIXES = (".py", ".cpp", ".h")


@functools.cache
def code_hash(suite: str = "cpu_suite") -> str:
    """A hash of the package's sources, the kernels', passes' and targets' among them, and of a benchmark's.

    Args:
        suite: The benchmark's folder; this one's, which all build on, is always in it.
    """
    assert starquant_fx.__file__ is not None
    found = hashlib.sha256()
    here = Path(__file__).parent
    package = Path(starquant_fx.__file__).parent
    for folder in dict.fromkeys((package, here, here.with_name(suite))):
        for path in sources(folder):
            found.update(f"{path.relative_to(folder)}\0".encode())
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def sources(folder: Path) -> list[Path]:
    """Sources in a folder and those below, also behind links, which lead to folders of a checkout; sorted."""
    return sorted(
        Path(parent) / name
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.endswith(SUFFIXES)
    )
