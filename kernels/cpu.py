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

from starquant_fx.errors import InputError
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
RANK = 16
"""Directions of a state that the branch of the kernel has room for."""
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
    coefficients: Tensor | None = None,
    image: Tensor | None = None,
) -> Tensor:
    """``reference.quantized_linear`` from ``panels`` instead of packed codes, bit for bit unless there is a branch.

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
        coefficients: Of the low-rank branch, [..., k] with k <= 16, or None; needs the state.
        image: See ``branch_image``.

    Returns:
        [..., n].
    """
    rows, codes = codes.shape[:-1].numel(), _padded(codes, GROUP)
    half = dtype == torch.bfloat16
    kept = dtype if half else torch.float32
    out = torch.empty(*codes.shape[:-1], weight_scale.numel(), dtype=kept, device="cpu")
    used = [
        codes,
        panels,
        zero.to(torch.int32).contiguous(),
        _floats(scale),
        _floats(weight_scale),
        column_sum.contiguous(),
        _floats(bias),
        None if state is None else state.contiguous(),
        None if state is None else _floats(state_bias),
        None if coefficients is None else _padded(coefficients.to(torch.bfloat16), RANK),
        None if image is None else image.to(torch.bfloat16),
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


TABLES = (
    *("matrix", "offset", "means", "directions", "back"),
    *("signs", "left", "right", "bounds", "clip"),
)
"""Names of the tables of ``site_tables``, in its order."""
TABLE_TYPES = {
    **dict.fromkeys(TABLES, torch.float32),
    **dict.fromkeys(("directions", "back", "left"), torch.bfloat16),
    "bounds": torch.int64,
}
"""Their types."""


def site_tables(
    matrix: Tensor | None,
    offset: Tensor | None,
    means: Tensor | None,
    directions: Tensor | None,
    factors: Sequence[Tensor],
    bounds: Sequence[int],
    clip: Tensor | None,
) -> list[Tensor | None]:
    """Lays a site's tables out as the kernel reads them.

    Args:
        matrix: TAC's [d / g, g, g] with g <= 16, or None.
        offset: TAC's [d] or None.
        means: [S, d] or None.
        directions: The branch's [S, d, k] with k <= 16, or None.
        factors: Of a basis of structure ``kronecker`` or ``hadamard`` with a right factor of at most 128, as
            ``reference.rotate`` takes them; empty = no basis.
        bounds: See ``reference.gate``; empty = no gates.
        clip: [2] or None.

    Returns:
        What ``site_codes`` takes.
    """
    left, right = factors[-2:] if factors else (None, None)
    return [
        *map(_floats, (None if matrix is None else matrix.mT, offset, means)),
        *((None, None) if directions is None else _branch(directions)),
        _floats(factors[0]) if len(factors) == 3 else None,
        None if left is None else _padded(left.T, 2).to(torch.bfloat16),
        None if right is None else _padded(right.float(), 16),
        torch.tensor(list(bounds)) if bounds else None,
        _floats(clip),
    ]


def site_codes(
    x: Tensor,
    state: Tensor | None,
    tables: Sequence[Tensor | None],
    rank: int,
    shared: int,
    bits: int,
    symmetric: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a site does to its input: TAC, centring, low-rank branch, basis, gates, per-token quantizer.

    Products with the left Kronecker factor and with the branch's directions are in bfloat16, summed in float32; the
    rest is float32 whatever ``x`` is.

    Args:
        x: [..., d].
        state: [...], or None where nothing depends on it.
        tables: See ``site_tables``.
        rank: k of the branch; 0 = none.
        shared: See ``reference.gate``.
        bits: 2..8.
        symmetric: See ``reference.quantize_activation``.

    Returns:
        Codes, scale and zero point as ``reference.quantize_activation``; the branch's coefficients [..., k] bfloat16.

    Raises:
        InputError: A value is not finite, or a token has a state that there is not.
    """
    matrix, _, means, directions, _, _, left, right, bounds, _ = tables
    tokens, half = x.shape[:-1].numel(), x.dtype == torch.bfloat16
    by_state = [t.shape[0] for t in (means, directions) if t is not None]
    states = max([1, *by_state, 0 if bounds is None else len(bounds) // 2])
    codes = torch.empty(x.shape, dtype=torch.uint8, device="cpu")
    scale, zero = (torch.empty(*x.shape[:-1], 1, device="cpu") for _ in range(2))
    coefficients = torch.empty(*x.shape[:-1], rank, dtype=torch.bfloat16, device="cpu")
    used = [
        (x if half else x.float()).contiguous(),
        None if state is None or states == 1 else state.contiguous(),
        # In the type that the kernel reads, whatever ``model.to(dtype)`` made of them.
        *(
            None if table is None else table.to(kind)
            for table, kind in zip(tables, TABLE_TYPES.values(), strict=True)
        ),
        *(codes, scale, zero, coefficients),
    ]
    sizes = (
        *(tokens, x.shape[-1], 0 if matrix is None else matrix.shape[-1], rank),
        *(1 if f is None else f.shape[0] for f in (left, right)),
        *(shared, states),
    )
    failure = _library().starquant_site(
        *(ctypes.c_void_p(0 if t is None else t.data_ptr()) for t in used),
        *(ctypes.c_int64(size) for size in sizes),
        *(int(half), bits, int(symmetric), torch.get_num_threads()),
    )
    if failure:
        raise InputError(
            "a site cannot quantize its input",
            where="starquant::site_codes",
            expected=f"states 0 to {states - 1}" if failure == 1 else "finite activations",
            got="another state" if failure == 1 else "NaN or Inf",
            hint="check token_state" if failure == 1 else "check the model's weights and dtype",
        )
    return codes, scale, zero, coefficients


def covers(
    structure: str, factors: Sequence[Tensor], directions: Tensor | None, matrix: Tensor | None
) -> bool:
    """Whether the kernel of a site has these transforms."""
    return (
        (not factors or (structure in ("kronecker", "hadamard") and factors[-1].shape[0] <= 128))
        and (directions is None or directions.shape[-1] <= RANK)
        and (matrix is None or matrix.shape[-1] <= 16)
    )


def _padded(matrix: Tensor, multiple: int) -> Tensor:
    """[..., k] with zeros up to a multiple, contiguous."""
    return torch.nn.functional.pad(matrix, (0, -matrix.shape[-1] % multiple)).contiguous()


def _branch(directions: Tensor) -> tuple[Tensor, Tensor]:
    """Directions [S, d, k] in bfloat16: [S, d / 2, 16, 2] for coefficients, negative [S, 8, d, 2] to take them off."""
    wide = _padded(directions, RANK).to(torch.bfloat16)
    down = _padded(wide.mT, 2).unflatten(2, (-1, 2)).transpose(1, 2).contiguous()
    return down, branch_image(-wide.mT)


def branch_image(image: Tensor) -> Tensor:
    """Lays [S, k, n], k <= 16, out in pairs of rows: bfloat16 [S, 8, n up to a whole panel, 2]."""
    rows = torch.nn.functional.pad(image.to(torch.bfloat16), (0, 0, 0, RANK - image.shape[1]))
    return _padded(rows, PANEL).unflatten(1, (-1, 2)).transpose(2, 3).contiguous()


def _floats(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.float().contiguous()


def _panel_linear_fake(
    codes: Tensor, scale: Tensor, zero: Tensor, panels: Tensor, weight_scale: Tensor, *rest: Any
) -> Tensor:
    dtype = next(value for value in rest if isinstance(value, torch.dtype))
    return codes.new_empty((*codes.shape[:-1], weight_scale.shape[0]), dtype=dtype)


torch.library.custom_op(
    "starquant::panel_linear",
    panel_linear,
    mutates_args=(),
    schema="(Tensor codes, Tensor scale, Tensor zero, Tensor panels, Tensor weight_scale, Tensor column_sum, "
    "int weight_bits, Tensor? bias, Tensor? state, Tensor? state_bias, ScalarType dtype, Tensor? coefficients=None, "
    "Tensor? image=None) -> Tensor",
).register_fake(_panel_linear_fake)


def _site_codes_fake(
    x: Tensor, state: Tensor | None, tables: Sequence[Tensor | None], rank: int, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    row = (*x.shape[:-1], 1)
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
    schema="(Tensor x, Tensor? state, Tensor?[] tables, int rank, int shared, int bits, bool symmetric) "
    "-> (Tensor codes, Tensor scale, Tensor zero, Tensor coefficients)",
).register_fake(_site_codes_fake)
