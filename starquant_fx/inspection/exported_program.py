"""A compiled model as a file of ``torch.export``, which PyTorch loads and Netron shows."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch.export import Dim

from starquant_fx.capture import example_inputs
from starquant_fx.compiled import CompiledModel
from starquant_fx.files import write_atomically


def save_exported_program(compiled: CompiledModel, path: Path) -> None:
    """Writes the lowered graph for ``input_ids`` [B, L] of any batch and length, with its tensors.

    ``torch.export.load`` reads it back where ``starquant_fx.operators`` was imported.

    Args:
        compiled: The model, best on the target ``reference``.
        path: A file ending in ``.pt2``.

    Raises:
        CheckpointError: It cannot be written.
    """
    inputs = {name: value for name, value in example_inputs().items()}
    if compiled.program.mask_token_id is None:
        inputs["token_state"] = torch.zeros_like(inputs["input_ids"])
    axes = tuple({0: Dim.DYNAMIC, 1: Dim.DYNAMIC} for _ in inputs)
    with torch.no_grad():
        program = torch.export.export(
            compiled.graph, tuple(inputs.values()), dynamic_shapes=axes, strict=False
        )
    content = io.BytesIO()
    torch.export.save(program, content)
    write_atomically(path, content.getvalue())
