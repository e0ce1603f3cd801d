"""The values of a tensor piece by piece, without making resident what is only mapped.

Weights and artifacts are private maps of their files. A page of a map takes memory from when it is first touched, so
that looking at all values of a model would load all of it, what an artifact replaces included. A map that was not
written to holds what its file holds, and a file can be read through a small buffer.
"""

from __future__ import annotations

import ctypes
import io
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

PIECE = 1 << 20
"""Bytes of a piece; a tensor of less is read where it is."""
_DONTNEED = 4
"""MADV_DONTNEED of Linux."""
MAPS, PAGES = Path("/proc/self/maps"), Path("/proc/self/pagemap")
"""Where Linux tells which files are mapped where, and 64 bits about each page; on other systems memory is read."""


def pieces(tensor: Tensor) -> Iterator[Tensor]:
    """Yields a tensor's values in order.

    Args:
        tensor: Of any shape. If it is mapped and nothing was written to its pages, its file is read instead of them.

    Yields:
        [N] of the tensor's dtype and on its device, of at most ``PIECE`` bytes; to be read only, and before the next
        one takes its place.
    """
    values = tensor.detach().flatten()
    count = PIECE // values.element_size()
    file = _file_behind(values) if len(values) > count and values.device.type == "cpu" else None
    if file is None:
        yield from values.split(count)
        return
    # Apart from the heap, which grew by a hole for every piece that small results were put into.
    buffer = torch.frombuffer(mmap.mmap(-1, PIECE), dtype=values.dtype)
    with file:
        begin = file.tell()
        for start in range(0, len(values), count):
            piece = buffer[: len(values) - start]
            memory = piece.view(torch.uint8).numpy().data
            read = os.preadv(file.fileno(), [memory], begin + start * piece.element_size())
            yield piece if read == piece.nbytes else values[start : start + count]


def copied(tensor: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A copy of another dtype or on another device, made in pieces."""
    made = torch.empty(tensor.shape, dtype=dtype, device=device)
    places = made.flatten().split(PIECE // tensor.element_size())
    for place, piece in zip(places, pieces(tensor), strict=True):
        place.copy_(piece)
    return made


def release(tensor: Tensor) -> None:
    """Gives back the memory of a map that nothing was written to; its file is read again when it is used again."""
    file = _file_behind(tensor.detach().flatten()) if tensor.device.type == "cpu" else None
    if file is None:
        return
    file.close()
    start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    size = tensor.data_ptr() + tensor.nbytes - start
    if size > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _DONTNEED)


def not_finite(tensor: Tensor) -> int:
    """How many values are NaN or infinite."""
    return sum(int((~torch.isfinite(piece)).sum()) for piece in pieces(tensor))


def _file_behind(values: Tensor) -> io.FileIO | None:
    """The file that contiguous values are mapped from, opened where they begin.

    None if they are in no map, were written to, or the file at the map's path is another one by now.
    """
    start, end = values.data_ptr(), values.data_ptr() + values.nbytes
    try:
        for line in MAPS.read_bytes().splitlines():
            bounds, _, offset, device, inode, *path = line.split(maxsplit=5)
            low, high = (int(bound, 16) for bound in bounds.split(b"-"))
            if not (path and low <= start and end <= high) or _written(start, end):
                continue
            file = io.FileIO(path[0])
            found = os.fstat(file.fileno())
            major, minor = (int(part, 16) for part in device.split(b":"))
            at = int(offset, 16) + start - low
            same = (found.st_dev, found.st_ino) == (os.makedev(major, minor), int(inode))
            if same and at + values.nbytes <= found.st_size:
                file.seek(at)
                return file
            file.close()
    except OSError:
        pass
    return None


def _written(start: int, end: int) -> bool:
    """Whether a page of a private map became one of the process's own, which holds other values than the file."""
    first, last = start // mmap.PAGESIZE, -(-end // mmap.PAGESIZE)
    with io.FileIO(PAGES) as file:
        file.seek(first * 8)
        entries = np.frombuffer(file.read((last - first) * 8), np.uint64)
    # Bits 63 and 62: in memory, swapped out; bit 61: the file's page.
    own = (entries >> np.uint64(62) != 0) & (entries >> np.uint64(61) & np.uint64(1) == 0)
    return len(entries) < last - first or bool(own.any())
