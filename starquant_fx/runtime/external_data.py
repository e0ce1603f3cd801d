"""Which files an ONNX file refers to, read without the onnx package.

Tensors of an ONNX file can lie in other files, named by a path. A path that leads out of the folder would make whoever
loads a model read any file of the machine, so all of them are read and checked before the model is given to a library.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterator
from pathlib import Path

from starquant_fx.errors import CheckpointError, cause

# Message -> field number -> message in that field, of onnx.proto; all other fields are skipped.
FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse tensor",
        23: "sparse tensor",
    },
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def external_files(path: Path) -> set[str]:
    """Returns the locations, as written, of all tensors of an ONNX file that lie in other files.

    Args:
        path: The ONNX file.

    Raises:
        CheckpointError: It cannot be read, or is no ONNX file.
    """
    found: set[str] = set()
    try:
        with path.open("rb") as stream:
            content = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        waiting = [("model", content)]
        while waiting:
            kind, message = waiting.pop()
            for number, value in _fields(message):
                inner = FIELDS[kind].get(number)
                if inner == "entry":
                    entry = dict(_fields(value))
                    if bytes(entry.get(1, b"")) == b"location":
                        found.add(bytes(entry.get(2, b"")).decode())
                elif inner is not None:
                    waiting.append((inner, value))
    except (OSError, ValueError, IndexError) as error:
        raise CheckpointError(
            "the model cannot be read",
            where=str(path),
            expected="an ONNX file",
            got=cause(error),
            hint="copy the exported folder again; the file is damaged or not whole",
        ) from error
    return found


def check_external_files(path: Path, allowed: Collection[str]) -> None:
    """Checks that an ONNX file refers to files of its own folder only, and that they exist.

    Args:
        path: The ONNX file.
        allowed: Names of the folder's files.

    Raises:
        CheckpointError: It refers to another file, to one that is missing, or cannot be read.
    """
    for location in sorted(external_files(path)):
        if location not in allowed:
            raise CheckpointError(
                "the model refers to a file that is not part of the export",
                where=str(path),
                expected=" or ".join(sorted(allowed)),
                got=repr(location),
                hint="do not use this folder: somebody changed it after the export",
            )
        if not (path.parent / location).is_file():
            raise CheckpointError(
                "a file with the model's weights is missing",
                where=str(path.parent),
                expected=location,
                got="no such file",
                hint="copy the exported folder as a whole",
            )


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of every field of a protobuf message that has a length; the others are skipped."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            _, at = _varint(message, at)
        elif kind in (FIXED64, FIXED32):
            at += 8 if kind == FIXED64 else 4
        elif kind == BYTES:
            size, at = _varint(message, at)
            if at + size > end:
                raise ValueError("a field is longer than the file")
            yield number, message[at : at + size]
            at += size
        else:
            raise ValueError(f"a field of the unknown kind {kind}")
    if at > end:
        raise ValueError("a field is longer than the file")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number that starts at a place, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number is too long")
