"""A model folder's safetensors files: headers checked first, tensors read one by one."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from starquant_fx.errors import CheckpointError
from starquant_fx.mapped import copied, not_finite, pieces
from starquant_fx.models.folder import LARGEST_JSON, contained, read_json

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
LARGEST_HEADER = LARGEST_JSON
"""Bytes of a safetensors header."""
FLOAT_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


@dataclasses.dataclass(frozen=True)
class TensorEntry:
    """What a header says about one tensor.

    Attributes:
        file: The file that holds it.
        shape: Its shape.
        stored: Its type as safetensors spells it ("F32", "BF16", "I64", ...).
    """

    file: Path
    shape: tuple[int, ...]
    stored: str

    @property
    def count(self) -> int:
        """Number of elements."""
        return torch.Size(self.shape).numel()


class TensorFiles:
    """The tensors of a folder, mapped into memory and read when asked for.

    Args:
        folder: The model's folder, with ``model.safetensors`` or shards and ``model.safetensors.index.json``.

    Attributes:
        folder: The model's folder.
        entries: Name in the files -> what the header says.

    Raises:
        CheckpointError: Files are missing, truncated, corrupt, outside of the folder, or not what the index says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: dict[str, TensorEntry] = {}
        self._open: dict[Path, Any] = {}
        if contained(folder, SINGLE_FILE).is_file():
            self._add(SINGLE_FILE)
            return
        listed = _read_index(folder)
        for shard in sorted(set(listed.values())):
            self._add(shard, {name for name, file in listed.items() if file == shard})

    def leave_out(self, harmless: re.Pattern[str]) -> None:
        """Forgets the tensors whose name matches; there must be others, all of a float type.

        Args:
            harmless: Searched for in each name.

        Raises:
            CheckpointError: Nothing is left, or what is left holds integers, booleans or 8-bit floats.
        """
        self.entries = {n: e for n, e in self.entries.items() if not harmless.search(n)}
        if not self.entries:
            raise CheckpointError(
                "the files hold no weights",
                where=str(self.folder),
                expected="the tensors that config.json describes",
                got="none",
                hint="download or copy the files again",
            )
        odd = [f"{n} ({e.stored})" for n, e in self.entries.items() if e.stored not in FLOAT_TYPES]
        if odd:
            raise CheckpointError(
                f"{len(odd)} tensors are of a type that is no model weight",
                where=str(self.folder),
                expected=f"one of {', '.join(FLOAT_TYPES)}",
                got="; ".join(odd[:3]),
                hint="load the float model; one that is already quantized cannot be read here",
            )

    def most_common_dtype(self) -> torch.dtype:
        """Returns the float type that most elements are stored in."""
        elements: Counter[torch.dtype] = Counter()
        for entry in self.entries.values():
            elements[FLOAT_TYPES[entry.stored]] += entry.count
        return elements.most_common(1)[0][0]

    def read(self, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Reads one tensor.

        Args:
            name: Its name in the files.
            dtype: The float type wanted.
            device: Where it goes.

        Returns:
            The tensor; on the CPU in its stored type it stays a private map of the file, which costs no memory of its
            own and does not write through.

        Raises:
            CheckpointError: It holds NaN or infinite values, or values that ``dtype`` cannot hold.
        """
        entry = self.entries[name]
        try:
            tensor: Tensor = self._open[entry.file].get_tensor(name)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise unusable(entry.file, str(error)) from error
        _check_values(tensor, name, entry.file, dtype)
        aligned = tensor.data_ptr() % tensor.element_size() == 0  # not after a header of odd length
        if aligned and (tensor.dtype, tensor.device) == (dtype, device):
            return tensor
        return copied(tensor, dtype, device)

    def _add(self, name: str, listed: set[str] | None = None) -> None:
        """Opens a file and takes over its header; ``listed`` is what the index says it holds."""
        path = contained(self.folder, name)
        shown = self.folder / name
        if not path.is_file():
            raise CheckpointError(
                f"the shard {name} is missing",
                where=str(self.folder / INDEX_FILE),
                expected=f"a file with {len(listed or ())} tensors",
                got="no such file",
                hint="download or copy the missing file; an interrupted download leaves such gaps",
            )
        opened, slices = open_tensors(path, shown)
        self._open[shown] = opened
        for key, header in slices.items():
            self.entries[key] = TensorEntry(shown, tuple(header.get_shape()), header.get_dtype())
        if listed is not None and listed != slices.keys():
            absent, surplus = sorted(listed - slices.keys()), sorted(slices.keys() - listed)
            raise CheckpointError(
                f"the index and the shard {name} disagree",
                where=str(self.folder / INDEX_FILE),
                expected=f"{len(listed)} tensors that the index places in this shard",
                got=f"{len(slices)} tensors; listed but absent: {absent[:3]}, held but not listed: {surplus[:3]}",
                hint="take the index and all shards from one and the same revision",
            )


def open_tensors(path: Path, shown: Path) -> tuple[Any, dict[str, Any]]:
    """Opens a safetensors file; no values are read.

    Args:
        path: The file.
        shown: What it is called in an error.

    Returns:
        The open file, and what its header says by name, as ``get_slice`` gives it.

    Raises:
        CheckpointError: It is truncated or corrupt, or its header is too large.
    """
    try:
        check_length(path)
        opened = safe_open(path, framework="pt")
        return opened, {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise unusable(shown, str(error)) from error


def check_length(path: Path) -> None:
    """Checks that a header is of a size that can be read.

    Args:
        path: A safetensors file.

    Raises:
        OSError: It cannot be read, is no file, or its header is too large.
    """
    if not path.is_file():  # opening a pipe would wait for somebody to write to it
        raise OSError("not a file")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if LARGEST_HEADER < length < path.stat().st_size:
        raise OSError(f"a header of {length} bytes, more than {LARGEST_HEADER}")


def _read_index(folder: Path) -> dict[str, str]:
    """Returns tensor name -> shard of the folder's index."""
    if not contained(folder, INDEX_FILE).is_file():
        raise _no_weights(folder)
    listed = read_json(folder, INDEX_FILE, CheckpointError).get("weight_map")
    if (
        not isinstance(listed, dict)
        or not listed
        or not all(isinstance(f, str) and f.endswith(".safetensors") for f in listed.values())
    ):
        raise CheckpointError(
            "the index has no usable weight_map",
            where=str(folder / INDEX_FILE),
            expected="weight_map: tensor name -> name of a .safetensors file",
            got=repr(listed)[:200],
            hint="take the index from where the model was published",
        )
    return listed


def _no_weights(folder: Path) -> CheckpointError:
    """The refusal of a folder without the expected files, which says what is there instead."""
    held = sorted(p.name for p in folder.iterdir())
    pickled = [name for name in held if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    shards = [name for name in held if name.endswith(".safetensors")]
    hint = "pass the folder that holds the weights"
    if shards:
        hint = f"add {INDEX_FILE}, which says what each shard holds"
    elif pickled:
        hint = (
            f"pickle can run code while it is read, so {pickled[0]} is not opened: look for a safetensors revision "
            "of the model, or convert it with safetensors.torch.save_file where you trust its source"
        )
    return CheckpointError(
        "the folder has no safetensors weights",
        where=str(folder),
        expected=f"{SINGLE_FILE}, or shards with {INDEX_FILE}",
        got=", ".join((shards or pickled or held)[:5]) or "an empty folder",
        hint=hint,
    )


def unusable(file: Path, reason: str) -> CheckpointError:
    """The refusal of a file that safetensors cannot read."""
    size = file.stat().st_size
    pointer = False
    if size < 1024:
        pointer = file.read_bytes().startswith(b"version https://git-lfs")
    return CheckpointError(
        f"{file.name} is truncated or corrupt",
        where=str(file),
        expected="a complete safetensors file",
        got="a git-lfs pointer" if pointer else f"{size} bytes: {reason}",
        hint="run `git lfs pull`" if pointer else "download or copy the file again",
    )


def _check_values(tensor: Tensor, name: str, file: Path, dtype: torch.dtype) -> None:
    """Refuses values that are not finite or that ``dtype`` cannot hold."""
    if not tensor.numel():
        return
    # One pass without a copy; NaN and infinity both survive it.
    ends = [float(end) for piece in pieces(tensor) for end in torch.aminmax(piece)]
    largest = float(torch.tensor(ends, dtype=torch.float64).abs().max())
    if largest <= torch.finfo(dtype).max:
        return
    where = f"{name} in {file}"
    if not_finite(tensor):
        nan, infinite = int(tensor.isnan().sum()), int(tensor.isinf().sum())
        raise CheckpointError(
            f"{name} holds {nan} NaN and {infinite} infinite values",
            where=where,
            expected=f"{tensor.numel()} finite values",
            got=f"{nan + infinite} that are not",
            hint="download the file again; if it is the published one, the model was damaged in training",
        )
    raise CheckpointError(
        f"{name} does not fit into {dtype}",
        where=where,
        expected=f"values up to {torch.finfo(dtype).max:.4g}",
        got=f"{largest:.4g}",
        hint="load the model as torch.bfloat16 or torch.float32",
    )
