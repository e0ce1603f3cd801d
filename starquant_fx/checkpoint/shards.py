"""Shards: safetensors files written tensor by tensor, and read as maps of the files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from starquant_fx.artifact_checks import STORED
from starquant_fx.checkpoint.contained import own_file
from starquant_fx.checkpoint.format import AGAIN, Index
from starquant_fx.errors import CheckpointError
from starquant_fx.files import sha256_of
from starquant_fx.mapped import pieces
from starquant_fx.models.safetensors_files import (
    INDEX_FILE,
    LARGEST_HEADER,
    open_tensors,
    unusable,
)

LARGEST_FILE = 1 << 28
"""Bytes of a file beside the shards: a tokenizer's takes tens of megabytes at most."""


def plan(tensors: dict[str, Tensor], shard_bytes: int) -> list[list[str]]:
    """Spreads tensors over shards, in order.

    Args:
        tensors: By name.
        shard_bytes: Bytes of a shard at most; a larger tensor gets one of its own.

    Returns:
        The names of each shard.
    """
    shards: list[list[str]] = []
    room = 0
    for name, tensor in tensors.items():
        if not shards or tensor.nbytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= tensor.nbytes
    return shards


def write_shard(path: Path, tensors: dict[str, Tensor]) -> tuple[str, dict[str, str]]:
    """Writes a safetensors file in pieces; no tensor is copied whole.

    Args:
        path: The file.
        tensors: By name, on any device.

    Returns:
        SHA-256 of length and header, and of every tensor's bytes.

    Raises:
        CheckpointError: A tensor holds NaN or Inf, with which no checkpoint is loaded.
        OSError: It cannot be written.
    """
    # Wide elements first, so that every tensor begins at a multiple of its element's size.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.nbytes
        entries[name] = {
            "dtype": STORED[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    hashes = {}
    with path.open("wb") as file:
        file.write(head)
        for name, tensor in ordered:
            digest = hashlib.sha256()
            for piece in pieces(tensor):
                if not _finite(piece):
                    raise _not_finite(name, path, "check the model's weights and calibration")
                values = _bytes(piece)
                file.write(values)
                digest.update(values)
            hashes[name] = digest.hexdigest()
    return hashlib.sha256(head).hexdigest(), hashes


class Shards:
    """The tensors of a checkpoint, mapped to their files.

    Args:
        folder: The checkpoint.
        index: Its index.
        check: Whether to compare hashes.

    Attributes:
        headers: What the files say of each tensor.

    Raises:
        CheckpointError: A file is missing, leads outside, is damaged, or does not hold what the index says.
    """

    def __init__(self, folder: Path, index: Index, check: bool) -> None:
        self._folder, self._index, self._check = folder, index, check
        self._open: dict[str, Any] = {}
        self.headers: dict[str, Any] = {}
        for shard in sorted(set(index.weight_map.values())):
            self._add(shard)

    def _add(self, shard: str) -> None:
        path = own_file(self._folder, shard)
        opened, found = open_tensors(path, self._folder / shard)
        listed = {name for name, at in self._index.weight_map.items() if at == shard}
        if listed != found.keys():
            raise CheckpointError(
                f"the index and the shard {shard} disagree",
                where=str(self._folder / INDEX_FILE),
                expected=f"{len(listed)} tensors that the index places in this shard",
                got=f"{len(found)} tensors; {_differences(listed, found)}",
                hint=AGAIN,
            )
        if self._check:
            right = self._index.metadata.header_sha256[shard]
            if (got := _header_hash(path)) != right:
                raise _changed(f"the header of {shard}", self._folder / shard, right, _short(got))
        self._open[shard] = opened
        self.headers.update(found)

    def read(self, name: str, device: torch.device) -> Tensor:
        """Reads one tensor; on the CPU it stays a private map of its file.

        Raises:
            CheckpointError: Its bytes are not those that the index has the hash of, or hold NaN or Inf; ``check``
                alone finds either.
        """
        shard = self._index.weight_map[name]
        path = self._folder / shard
        try:
            tensor: Tensor = self._open[shard].get_tensor(name)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise unusable(path, str(error)) from error
        if self._check:
            digest = hashlib.sha256()
            finite = True
            for piece in pieces(tensor):
                digest.update(_bytes(piece))
                finite = finite and _finite(piece)
            right = self._index.metadata.tensor_sha256[name]
            if digest.hexdigest() != right:
                raise _changed(name, path, right, _short(digest.hexdigest()))
            if not finite:
                raise _not_finite(name, path, AGAIN)
        aligned = tensor.data_ptr() % tensor.element_size() == 0
        return tensor.to(device) if aligned else tensor.clone().to(device)


def check_files(folder: Path, index: Index) -> None:
    """Compares the hashes of the files beside the shards.

    Raises:
        CheckpointError: One is missing, leads outside, is far too large, or holds something else.
    """
    for name, right in index.metadata.file_sha256.items():
        path = own_file(folder, name)
        if (size := path.stat().st_size) > LARGEST_FILE:
            raise _changed(name, folder / name, right, f"{size} bytes")
        if (got := sha256_of(path)) != right:
            raise _changed(name, folder / name, right, _short(got))


def _bytes(piece: Tensor) -> memoryview:
    """The bytes of contiguous values [N]."""
    values: memoryview = piece.contiguous().cpu().view(torch.uint8).numpy().data
    return values


def _finite(piece: Tensor) -> bool:
    """Whether values [N] are neither NaN nor infinite; true of integers."""
    return not piece.is_floating_point() or bool(torch.isfinite(piece).all())


def _header_hash(path: Path) -> str:
    """SHA-256 of a safetensors file's length and header."""
    with path.open("rb") as file:
        length = file.read(8)
        size = min(int.from_bytes(length, "little"), LARGEST_HEADER)
        return hashlib.sha256(length + file.read(size)).hexdigest()


def _differences(listed: Iterable[str], found: Iterable[str]) -> str:
    absent, surplus = sorted(set(listed) - set(found)), sorted(set(found) - set(listed))
    return f"listed but absent: {absent[:3]}, held but not listed: {surplus[:3]}"


def _short(digest: str) -> str:
    return f"sha256 {digest[:12]}"


def _not_finite(name: str, path: Path, hint: str) -> CheckpointError:
    return CheckpointError(
        f"{name} is not finite",
        where=str(path),
        expected="finite numbers",
        got="NaN or Inf",
        hint=hint,
    )


def _changed(what: str, path: Path, right: str, got: str) -> CheckpointError:
    return CheckpointError(
        f"{what} is not what was saved",
        where=str(path),
        expected=f"{_short(right)}, as the index says",
        got=got,
        hint=AGAIN,
    )
