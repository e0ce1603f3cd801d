"""Making the index of a forged checkpoint fit its files again, so that hashes do not hide the checks behind them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from checkpoint_fuzz.damage import is_plain
from checkpoint_fuzz.headers import METADATA, parsed, shards

INDEX = "model.safetensors.index.json"


def seal(folder: Path) -> None:
    """Writes the hashes and names of what the folder holds into its index, as far as that can be read.

    Raises:
        LookupError: There is no index whose form is known.
    """
    path = folder / INDEX
    if not is_plain(path):
        raise LookupError
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        files: dict[str, str] = index["metadata"]["file_sha256"]
        for name in files:
            if is_plain(folder / name):
                files[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        weight_map, tensors, headers, size = _of_shards(folder)
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError):
        raise LookupError from None
    index["weight_map"] = weight_map
    index["metadata"] = {
        "total_size": size,
        "tensor_sha256": tensors,
        "header_sha256": headers,
        "file_sha256": files,
    }
    path.write_text(json.dumps(index), encoding="utf-8")


def _of_shards(folder: Path) -> tuple[dict[str, str], dict[str, str], dict[str, str], int]:
    weight_map: dict[str, str] = {}
    tensors: dict[str, str] = {}
    headers: dict[str, str] = {}
    size = 0
    for shard in shards(folder):
        with shard.open("rb") as stream:
            head = stream.read(8)
            head += stream.read(min(int.from_bytes(head, "little"), 1 << 27))
        headers[shard.name] = hashlib.sha256(head).hexdigest()
        try:
            header, body = parsed(shard)
        except LookupError:
            continue
        for name, entry in header.items():
            if name != METADATA:
                begin, end = _span(entry)
                weight_map[name] = shard.name
                tensors[name] = hashlib.sha256(body[begin:end]).hexdigest()
                size += max(0, end - begin)
    return weight_map, tensors, headers, size


def _span(entry: dict[str, Any]) -> tuple[int, int]:
    span = entry.get("data_offsets")
    if isinstance(span, list) and len(span) == 2 and all(type(n) is int for n in span):
        return max(0, span[0]), max(0, span[1])
    return 0, 0
