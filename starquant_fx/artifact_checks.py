"""What the tensors of an artifact are held to: first its header, without reading a value, then the values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from starquant_fx.errors import CheckpointError
from starquant_fx.kernels import reference
from starquant_fx.mapped import not_finite
from starquant_fx.models.tensor_names import mismatch
from starquant_fx.operators import op
from starquant_fx.program import CONSTANTS, Program

STORED = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
}
"""How safetensors spells a dtype."""
PANELS = 4
"""Panels of codes that are unpacked at once."""
AGAIN = "save the artifact again, or copy it again from where it was saved"


def check_header(file: Any, expected: dict[str, Tensor], path: Path) -> None:
    """Compares names, shapes and dtypes before any value is read.

    Args:
        file: The open safetensors file.
        expected: Fake tensors by name, as the recipe's passes make them.
        path: The file, for the error.

    Raises:
        CheckpointError: Tensors are missing, extra, or of another shape or dtype.
    """
    headers = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    what = "the artifact does not hold what its recipe makes of the model"
    compare_headers(headers, expected, str(path), what, AGAIN)


def compare_headers(
    headers: dict[str, Any], expected: dict[str, Tensor], where: str, what: str, hint: str
) -> None:
    """Compares what headers say with the tensors that a recipe makes.

    Args:
        headers: By name, as ``get_slice`` of an open safetensors file gives them.
        expected: Fake tensors by name.
        where: The file or folder, for the error.
        what: What the error says.
        hint: What to do.

    Raises:
        CheckpointError: Tensors are missing, extra, or of another shape or dtype.
    """
    wrong = []
    for name in expected.keys() & headers.keys():
        want = f"{STORED[expected[name].dtype]} {list(expected[name].shape)}"
        got = f"{headers[name].get_dtype()} {headers[name].get_shape()}"
        if got != want:
            wrong.append(f"{name}: expected {want}, got {got}")
    refusal = mismatch(
        where,
        missing=expected.keys() - headers.keys(),
        extra=headers.keys() - expected.keys(),
        misshapen=wrong,
        what=what,
        expected=f"{len(expected)} tensors",
        hint=hint,
    )
    if refusal:
        raise refusal


def check_values(program: Program, path: Path) -> None:
    """Checks that floats are finite and that what can be computed from other tensors is what it should be.

    Args:
        program: The program, bound to the artifact's tensors.
        path: The file, for the error.

    Raises:
        CheckpointError: A tensor holds NaN or Inf, or column sums are not those of the codes.
    """
    for name, tensor in program.tensors().items():
        made = name.startswith(f"{CONSTANTS}.") and tensor.is_floating_point()
        if made and (bad := not_finite(tensor)):
            raise CheckpointError(
                f"{name} is not finite",
                where=str(path),
                expected=f"{tensor.numel()} finite numbers",
                got=f"{bad} NaN or Inf",
                hint=AGAIN,
            )
    for node in program.nodes(op("quantized_linear")):
        codes, _, _, packed, _, sums, bits = node.args[:7]
        assert isinstance(codes, fx.Node)
        assert isinstance(packed, fx.Node)
        assert isinstance(sums, fx.Node)
        assert isinstance(bits, int)
        features = int(codes.meta["val"].shape[-1])
        found = program.tensor(sums)
        right = _column_sums(program.tensor(packed), bits, found, features)
        if not torch.equal(found, right):
            raise CheckpointError(
                f"{sums.target} is not the sum of the codes",
                where=str(path),
                expected=f"the sums of {packed.target} over its {features} columns",
                got=f"{int((found != right).sum())} of {right.numel()} that differ",
                hint=AGAIN,
            )


def _column_sums(packed: Tensor, bits: int, like: Tensor, features: int) -> Tensor:
    """Sums of packed codes by output channel, unpacked a few panels at a time; as many and of the dtype as ``like``."""
    parts = (
        reference.unpack(panels, bits, len(panels) * reference.PANEL, features)
        for panels in packed.split(PANELS)
    )
    return torch.cat([codes.sum(-1, dtype=like.dtype) for codes in parts])[: like.numel()]
