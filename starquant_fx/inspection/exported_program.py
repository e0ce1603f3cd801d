"""A compiled model as a file of ``torch.export``, which PyTorch loads and Netron shows."""

from __future__ import annotations

import io
import os

import torch
from torch.export import Dim

from starquant_fx.capture import example_inputs
from starquant_fx.compiled import CompiledModel
from starquant_fx.files import check_destination, write_atomically


def save_exported_program(compiled: CompiledModel, path: str | os.PathLike[str]) -> None:
    """Writes the lowered graph for ``input_ids`` [B, L] of any batch and length, with its tensors.

    ``torch.export.load`` reads it back where ``starquant_fx.operators`` was imported.

    Args:
        compiled: The model, best on the target ``reference``.
        path: A file ending in ``.pt2``.

    Raises:
        CheckpointError: It cannot be written.
    """
    file = check_destination(path, ".pt2")
    inputs = example_inputs()
    if compiled.program.mask_token_id is None:
        inputs["token_state"] = torch.zeros_like(inputs["input_ids"])
    axes = tuple({0: Dim.DYNAMIC, 1: Dim.DYNAMIC} for _ in inputs)
    with torch.no_grad():
        program = torch.export.export(
            compiled.graph, tuple(inputs.values()), dynamic_shapes=axes, strict=False
        )
    content = io.BytesIO()
    torch.export.save(program, content)
    write_atomically(file, content.getvalue())
