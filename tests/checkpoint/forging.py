"""Checkpoints that are damaged, or changed together with the hashes of their index."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

INDEX = "model.safetensors.index.json"


def shard(folder: Path, number: int = 1) -> Path:
    return sorted(folder.glob("*.safetensors"))[number - 1]


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_config(folder: Path, **changed: Any) -> None:
    """Changes config.json and its hash."""
    edit(folder / "config.json", lambda c: c.update(changed))
    seal(folder)


def edit_quantization(folder: Path, **changed: Any) -> None:
    """Changes the quantization_config and the hash; None takes a key out."""

    def change(config: dict[str, Any]) -> None:
        held = {**config["quantization_config"], **changed}
        config["quantization_config"] = {k: v for k, v in held.items() if v != ...}

    edit(folder / "config.json", change)
    seal(folder)


def seal(folder: Path) -> None:
    """Makes the index fit the files of the folder again."""
    weight_map, tensors, headers, size = {}, {}, {}, 0
    for path in sorted(folder.glob("*.safetensors")):
        data = path.read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        headers[path.name] = hashlib.sha256(data[:end]).hexdigest()
        for name, entry in json.loads(data[8:end]).items():
            if name != "__metadata__":
                begin, stop = entry["data_offsets"]
                weight_map[name] = path.name
                tensors[name] = hashlib.sha256(data[end + begin : end + stop]).hexdigest()
                size += stop - begin

    def change(index: dict[str, Any]) -> None:
        files = {
            n: hashlib.sha256((folder / n).read_bytes()).hexdigest()
            for n in index["metadata"]["file_sha256"]
        }
        index["weight_map"] = weight_map
        index["metadata"] = {
            "total_size": size,
            "tensor_sha256": tensors,
            "header_sha256": headers,
            "file_sha256": files,
        }

    edit(folder / INDEX, change)


def retensor(folder: Path, ending: str, tensor: Tensor | None) -> None:
    """Changes the tensor whose name ends so (None removes it), or adds one to the first shard; and the hashes."""
    names = {n: p for p in folder.glob("*.safetensors") for n in load_file(p)}
    found = next((name for name in names if name.endswith(ending)), ending)
    path = names.get(found, shard(folder))
    held = {name: value for name, value in load_file(path).items() if name != found}
    save_file(held | ({} if tensor is None else {found: tensor}), path, {"format": "pt"})
    seal(folder)


def flip(path: Path, at: int, bit: int = 0) -> None:
    """Flips one bit; from the end if ``at`` is negative."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)
