"""Small safetensors files of our own: written whole or not at all, and read back."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from starquant_fx.errors import CheckpointError, cause
from starquant_fx.files import replacing


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes tensors to a file.

    Args:
        path: The file.
        tensors: By name, on any device.

    Raises:
        CheckpointError: The file cannot be written, as on a full disk.
    """
    with replacing(path) as temporary:
        try:
            save_file({n: t.detach().contiguous().cpu() for n, t in tensors.items()}, temporary)
        except SafetensorError as error:  # what safetensors makes of what the system says
            raise OSError(str(error)) from error


def read_tensors(path: Path, device: torch.device | None = None) -> dict[str, Tensor]:
    """Reads what ``write_tensors`` wrote.

    Args:
        path: The file.
        device: Where the tensors go; None = where tensors are made now.

    Returns:
        Tensors by name; on the CPU they are maps of the file.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    place = torch.get_default_device() if device is None else device
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name).to(place) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            "a file of intermediate results is damaged",
            where=str(path),
            expected="the file as it was written",
            got=cause(error),
            hint="remove the folder that it is in, and begin again",
        ) from error
