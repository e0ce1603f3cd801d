"""The CPU kernels' library: C++ for AVX512-VNNI, built by the system's compiler at first use, kept in the user's cache.

Machines without the instructions or without a compiler run the reference implementations; ``unavailable`` says why.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

FOLDER = Path(__file__).parent
SOURCES = tuple(sorted(FOLDER.glob("*.cpp")))
HEADERS = tuple(sorted(FOLDER.glob("*.h")))
EXTENSIONS = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "avx512bf16")
FLAGS = (
    *("-O3", "-std=c++17", "-ffp-contract=off", "-fopenmp", "-shared", "-fPIC", "-mprfchw"),
    *(f"-m{name}" for name in EXTENSIONS),
)
COMPILERS = ("g++", "clang++", "c++")


class _NoKernelsError(Exception):
    """Why there are no kernels on this machine."""


@functools.cache
def unavailable() -> str | None:
    """Why the kernels cannot run on this machine; None if they can."""
    try:
        _library()
    except _NoKernelsError as reason:
        return str(reason)
    return None


@functools.cache
def _library() -> ctypes.CDLL:
    """The compiled kernels."""
    if not (torch.cpu._is_vnni_supported() and torch.cpu._is_avx512_bf16_supported()):
        raise _NoKernelsError("the processor has no AVX512-VNNI and AVX512-BF16")
    named = (os.environ.get("CXX", ""), *COMPILERS)
    compiler = next((path for name in named if name and (path := shutil.which(name))), None)
    if compiler is None:
        raise _NoKernelsError(f"there is no C++ compiler ({', '.join(COMPILERS)}, or $CXX)")
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
        folder = cache_folder()
    except (OSError, RuntimeError) as error:  # a file of another machine; a user without a home
        raise _NoKernelsError(f"the kernels cannot be built: {error}") from error
    sources = [source.read_bytes() for source in (*HEADERS, *SOURCES)]
    content = b"\0".join([*sources, version, *(flag.encode() for flag in FLAGS)])
    name = f"cpu-{_digest(content)}"
    built = _kept(folder, name) or _build(compiler, folder, name)
    try:
        return ctypes.CDLL(str(built))
    except OSError as error:
        raise _NoKernelsError(f"{built} cannot be loaded: {error}") from error


def cache_folder() -> Path:
    """Where built kernels are kept: ``$XDG_CACHE_HOME/starquant_fx``, by default ``~/.cache/starquant_fx``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "starquant_fx"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _kept(folder: Path, name: str) -> Path | None:
    """An earlier build whose content is still what its name says: a damaged one would end the process when loaded."""
    try:
        found = sorted(folder.glob(f"{name}-*.so"))
        return next((p for p in found if p.stem == f"{name}-{_digest(p.read_bytes())}"), None)
    except OSError:
        return None


def _build(compiler: str, folder: Path, name: str) -> Path:
    """Compiles the kernels; processes that do so at the same time do not disturb each other."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            made = Path(place) / f"{name}.so"
            command = [compiler, *FLAGS, *map(str, SOURCES), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise _NoKernelsError(f"{compiler} failed: {done.stderr.strip()[-500:]}")
            return made.replace(folder / f"{name}-{_digest(made.read_bytes())}.so")
    except OSError as error:
        raise _NoKernelsError(f"the kernels cannot be built: {error}") from error


def call(function: str, *values: Tensor | int | float | None) -> int:
    """Calls a kernel with pointers to contiguous tensors (None = a null pointer), 64-bit integers and doubles.

    Returns:
        What it returns.
    """
    given: list[ctypes.c_int64 | ctypes.c_double | ctypes.c_void_p] = []
    for value in values:
        if isinstance(value, int):
            given.append(ctypes.c_int64(value))
        elif isinstance(value, float):
            given.append(ctypes.c_double(value))
        else:
            given.append(ctypes.c_void_p(0 if value is None else value.data_ptr()))
    return int(getattr(_library(), function)(*given, ctypes.c_int64(torch.get_num_threads())))


def padded(matrix: Tensor, multiple: int) -> Tensor:
    """[..., k] with zeros up to a multiple, contiguous."""
    missing = -matrix.shape[-1] % multiple  # padding by nothing copies
    return (torch.nn.functional.pad(matrix, (0, missing)) if missing else matrix).contiguous()


def floats(value: Tensor | None) -> Tensor | None:
    """float32, contiguous."""
    return None if value is None else value.float().contiguous()


def row_pairs(matrix: Tensor) -> Tensor:
    """[..., r, c] in bfloat16 with two rows side by side, as products read them: [..., ceil(r / 2), c, 2]."""
    pairs = padded(matrix.mT.to(torch.bfloat16), 2).unflatten(-1, (-1, 2))
    return pairs.transpose(-3, -2).contiguous()
