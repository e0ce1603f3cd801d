"""CPU kernels in C++ for AVX512-VNNI, built by the system's compiler at first use and kept in the user's cache folder.

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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from starquant_fx.kernels import reference

SOURCES = tuple(Path(__file__).with_name(name) for name in ("cpu_linear.cpp", "cpu_site.cpp"))
EXTENSIONS = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "avx512bf16")
FLAGS = (
    *("-O3", "-std=c++17", "-ffp-contract=off", "-fopenmp", "-shared", "-fPIC"),
    *(f"-m{name}" for name in EXTENSIONS),
)
COMPILERS = ("g++", "clang++", "c++")
PANEL = 64
"""Outputs of a panel."""
GROUP = 8
"""Channels are padded to a multiple of this."""


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
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    sources = [source.read_bytes() for source in SOURCES]
    content = b"\0".join([*sources, version, *(flag.encode() for flag in FLAGS)])
    built = cache_folder() / f"cpu-{hashlib.sha256(content).hexdigest()[:16]}.so"
    if not built.is_file():
        _build(compiler, built)
    try:
        return ctypes.CDLL(str(built))
    except OSError as error:
        raise _NoKernelsError(f"{built} cannot be loaded: {error}") from error


def cache_folder() -> Path:
    """Where built kernels are kept: ``$XDG_CACHE_HOME/starquant_fx``, by default ``~/.cache/starquant_fx``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "starquant_fx"


def _build(compiler: str, path: Path) -> None:
    """Compiles the kernels; processes that do so at the same time end with the same file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            command = [compiler, *FLAGS, *map(str, SOURCES), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise _NoKernelsError(f"{compiler} failed: {done.stderr.strip()[-500:]}")
            made.replace(path)
    except OSError as error:
        raise _NoKernelsError(f"the kernels cannot be built: {error}") from error


def stored_bits(bits: int) -> int:
    """Bits that a panel stores of weights of ``bits`` bits."""
    return 4 if bits <= 4 else 8


def panels(packed: Tensor, bits: int, features: int) -> Tensor:
    """Lays packed weight codes out as the kernel reads them.

    Args:
        packed: What ``reference.pack`` made of codes [n, d].
        bits: 2..8.
        features: d.

    Returns:
        uint8 [ceil(n / 64), bytes]: of each panel byte [k / 4][output][k % 4], for up to four bits two groups of four
        channels a byte, each code plus eight.
    """
    codes = reference.unpack(packed, bits, features).to(torch.int16)
    outputs, channels = (
        -size % step for size, step in zip(codes.shape, (PANEL, GROUP), strict=True)
    )
    codes = torch.nn.functional.pad(codes, (0, channels, 0, outputs))
    half = stored_bits(bits) == 4
    codes = (codes + 8 if half else codes).unflatten(0, (-1, PANEL)).unflatten(2, (-1, 4))
    laid = codes.transpose(1, 2)  # [panel, group, output, channel]
    laid = laid[:, ::2] | laid[:, 1::2] << 4 if half else laid & 0xFF
    return laid.to(torch.uint8).flatten(1).contiguous()


def panel_linear(
    codes: Tensor,
    scale: Tensor,
    zero: Tensor,
    panels: Tensor,
    weight_scale: Tensor,
    column_sum: Tensor,
    weight_bits: int,
    bias: Tensor | None,
    state: Tensor | None,
    state_bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """``reference.quantized_linear`` with the same result bit for bit, from ``panels`` instead of packed codes.

    Args:
        codes: Activation codes uint8 [..., d].
        scale: float32 [..., 1].
        zero: float32 [..., 1].
        panels: See ``panels``.
        weight_scale: float32 [n].
        column_sum: Sum of the weight codes per output channel, int32 [n].
        weight_bits: 2..8.
        bias: [n] or None.
        state: [...] or None.
        state_bias: [S, n] or None.
        dtype: float32, or another float type, which float32 is rounded to.

    Returns:
        [..., n].
    """
    rows, features = codes.shape[:-1].numel(), codes.shape[-1]
    codes = torch.nn.functional.pad(codes, (0, -features % GROUP)).contiguous()
    half = dtype == torch.bfloat16
    out = torch.empty(
        *codes.shape[:-1], weight_scale.numel(), dtype=dtype if half else torch.float32
    )
    used = [
        codes,
        panels,
        zero.to(torch.int32).contiguous(),
        scale.contiguous(),
        weight_scale.contiguous(),
        column_sum.contiguous(),
        _floats(bias),
        None if state_bias is None or state is None else state.contiguous(),
        None if state is None else _floats(state_bias),
    ]
    sizes = (rows, weight_scale.numel(), codes.shape[-1])
    _library().starquant_linear(
        *(ctypes.c_void_p(0 if t is None else t.data_ptr()) for t in used),
        *(ctypes.c_int64(size) for size in sizes),
        stored_bits(weight_bits),
        int(half),
        ctypes.c_void_p(out.data_ptr()),
        torch.get_num_threads(),
    )
    return out.to(dtype)


def site_codes(
    x: Tensor,
    state: Tensor | None,
    matrix: Tensor | None,
    offset: Tensor | None,
    means: Tensor | None,
    directions: Tensor | None,
    factors: Sequence[Tensor],
    structure: str,
    shared: int,
    bounds: Sequence[int],
    bits: int,
    symmetric: bool,
    clip: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a site does to its input: TAC, centring, low-rank branch, basis, gates, per-token quantizer.

    The left Kronecker factor and the input it meets are rounded to bfloat16; all else is float32 whatever ``x`` is.

    Args:
        x: [..., d], bfloat16 or float32.
        state: [...], or None where nothing depends on it.
        matrix: TAC's [d / g, g, g] or None.
        offset: TAC's [d] or None.
        means: [S, d] or None.
        directions: The branch's [S, d, k] or None.
        factors: Of the basis, as ``reference.rotate`` takes them; empty = no basis.
        structure: ``kronecker`` or ``hadamard``; anything without factors.
        shared: See ``reference.gate``.
        bounds: See ``reference.gate``; empty = no gates.
        bits: 2..8.
        symmetric: See ``reference.quantize_activation``.
        clip: [2] or None.

    Returns:
        Codes, scale and zero point as ``reference.quantize_activation``; the branch's coefficients [..., k] bfloat16,
        k = 0 without one.
    """
    features, rank = x.shape[-1], 0 if directions is None else directions.shape[-1]
    tokens, half = x.shape[:-1].numel(), x.dtype == torch.bfloat16
    signs, (left, right) = None, factors[-2:] if factors else (None, None)
    if len(factors) == 3:
        signs = factors[0]
    codes = torch.empty(x.shape, dtype=torch.uint8)
    scale, zero = (torch.empty(*x.shape[:-1], 1) for _ in range(2))
    coefficients = torch.empty(*x.shape[:-1], rank, dtype=torch.bfloat16)
    edges = torch.tensor(list(bounds)) if bounds else None
    used = [
        (x if half else x.float()).contiguous(),
        None if state is None else state.contiguous(),
        *map(
            _floats, (matrix, offset, means, None if directions is None else directions.mT, signs)
        ),
        None if left is None else _even_rows(left.T),
        _floats(right),
        edges,
        _floats(clip),
        *(codes, scale, zero, coefficients),
    ]
    sizes = (
        *(tokens, features, 0 if matrix is None else matrix.shape[-1], rank),
        *(1 if f is None else f.shape[0] for f in (left, right)),
        *(shared, features),
    )
    _library().starquant_site(
        *(ctypes.c_void_p(0 if t is None else t.data_ptr()) for t in used),
        *(ctypes.c_int64(size) for size in sizes),
        *(int(half), bits, int(symmetric), torch.get_num_threads()),
    )
    return codes, scale, zero, coefficients


def _floats(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.float().contiguous()


def _even_rows(matrix: Tensor) -> Tensor:
    """A matrix in bfloat16 with rows of even length, contiguous."""
    return torch.nn.functional.pad(matrix.to(torch.bfloat16), (0, matrix.shape[1] % 2)).contiguous()


def _panel_linear_fake(
    codes: Tensor, scale: Tensor, zero: Tensor, panels: Tensor, weight_scale: Tensor, *rest: Any
) -> Tensor:
    return codes.new_empty((*codes.shape[:-1], weight_scale.shape[0]), dtype=rest[-1])


torch.library.custom_op(
    "starquant::panel_linear",
    panel_linear,
    mutates_args=(),
    schema="(Tensor codes, Tensor scale, Tensor zero, Tensor panels, Tensor weight_scale, Tensor column_sum, "
    "int weight_bits, Tensor? bias, Tensor? state, Tensor? state_bias, ScalarType dtype) -> Tensor",
).register_fake(_panel_linear_fake)


def _site_codes_fake(
    x: Tensor,
    state: Tensor | None,
    matrix: Tensor | None,
    offset: Tensor | None,
    means: Tensor | None,
    directions: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    row = (*x.shape[:-1], 1)
    rank = 0 if directions is None else directions.shape[-1]
    return (
        x.new_empty(x.shape, dtype=torch.uint8),
        x.new_empty(row, dtype=torch.float32),
        x.new_empty(row, dtype=torch.float32),
        x.new_empty((*x.shape[:-1], rank), dtype=torch.bfloat16),
    )


torch.library.custom_op(
    "starquant::site_codes",
    site_codes,
    mutates_args=(),
    schema="(Tensor x, Tensor? state, Tensor? matrix, Tensor? offset, Tensor? means, Tensor? directions, "
    "Tensor[] factors, str structure, int shared, int[] bounds, int bits, bool symmetric, Tensor? clip) "
    "-> (Tensor codes, Tensor scale, Tensor zero, Tensor coefficients)",
).register_fake(_site_codes_fake)
