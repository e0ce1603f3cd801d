"""Damage to the bytes of any file of a folder, as disks, copies and interrupted downloads do it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

Mutation = Callable[[Random, Path], str]
"""Changes a folder and says how; LookupError where it does not apply."""

SPARSE = (1 << 24, 1 << 30, 3 << 30)
"""Sizes that a file may get without taking room on the disk."""
LARGEST = 1 << 25
"""Bytes of a file that is changed further."""


def plain_files(folder: Path) -> list[Path]:
    """The files of a folder that are neither links nor of a special kind, nor sparse ones of earlier changes."""
    return sorted(filter(is_plain, folder.iterdir()))


def is_plain(file: Path) -> bool:
    """Whether a file can be read and changed."""
    return file.is_file() and not file.is_symlink() and file.stat().st_size <= LARGEST


def some_file(random: Random, folder: Path) -> Path:
    """One of them; LookupError if there is none."""
    return random.choice(plain_files(folder) or _none())


def truncate(random: Random, folder: Path) -> str:
    """Cuts a file at any byte."""
    file = some_file(random, folder)
    data = file.read_bytes()
    to = random.randrange(len(data)) if data else 0
    file.write_bytes(data[:to])
    return f"{file.name} cut to {to} of {len(data)} bytes"


def empty(random: Random, folder: Path) -> str:
    """Leaves no byte of a file."""
    file = some_file(random, folder)
    file.write_bytes(b"")
    return f"{file.name} of no bytes"


def flip_bits(random: Random, folder: Path) -> str:
    """Flips one to eight bits, near the beginning in half of the cases: that is where headers are."""
    file = some_file(random, folder)
    data = bytearray(file.read_bytes() or _none())
    near = min(len(data), random.choice((8, 200, 2000, len(data))))
    places = [
        (random.randrange(near), random.randrange(8)) for _ in range(random.choice((1, 1, 2, 8)))
    ]
    for at, bit in places:
        data[at] ^= 1 << bit
    file.write_bytes(data)
    return f"{file.name}: bits {places} flipped"


def overwrite(random: Random, folder: Path) -> str:
    """Fills a range of a file."""
    file = some_file(random, folder)
    data = bytearray(file.read_bytes() or _none())
    start = random.randrange(len(data))
    stop = min(len(data), start + random.choice((1, 2, 8, 64, 4096)))
    fill = random.choice((b"\0", b"\xff", b" ", b"9", b"[", b'"', None))
    count = stop - start
    data[start:stop] = random.randbytes(count) if fill is None else fill * count
    file.write_bytes(data)
    return f"{file.name}: {start} to {stop} filled with {fill!r}"


def shift(random: Random, folder: Path) -> str:
    """Takes bytes out, or puts some in, so that all that follows moves."""
    file = some_file(random, folder)
    data = file.read_bytes()
    at = random.randrange(len(data) + 1)
    count = random.choice((1, 2, 7, 8, 100))
    if random.random() < 0.5:
        file.write_bytes(data[:at] + data[at + count :])
        return f"{file.name}: {count} bytes out at {at}"
    file.write_bytes(data[:at] + random.randbytes(count) + data[at:])
    return f"{file.name}: {count} bytes in at {at}"


def extend(random: Random, folder: Path) -> str:
    """Makes a file longer; the holes of a sparse one take no room."""
    file = some_file(random, folder)
    size = file.stat().st_size
    more = random.choice((1, 8, 4096, *SPARSE))
    with file.open("r+b") as stream:
        stream.truncate(size + more)
    return f"{file.name}: {more} zeros more"


def remove(random: Random, folder: Path) -> str:
    """Removes a file."""
    file = some_file(random, folder)
    file.unlink()
    return f"no {file.name}"


def exchange(random: Random, folder: Path) -> str:
    """Gives two files each other's names, or one of them the content of the other."""
    one, other = random.sample(plain_files(folder), 2)
    if random.random() < 0.5:
        shutil.copyfile(one, other)
        return f"{other.name} with the content of {one.name}"
    aside = folder / "aside"
    one.rename(aside)
    other.rename(one)
    aside.rename(other)
    return f"{one.name} and {other.name} exchanged"


def garbage(random: Random, folder: Path) -> str:
    """Gives a file another content altogether."""
    file = some_file(random, folder)
    content = random.choice(
        (
            b"{}",
            b"[]",
            b"null",
            b"NaN",
            b"\xef\xbb\xbf{}",
            b"[" * 100_000,
            b'{"a":' * 20_000,
            b"1" * 100_000,
            b"version https://git-lfs.github.com/spec/v1\n",
            b"<!DOCTYPE html>",
            b"\x80\x04\x95",
            b"PK\x03\x04",
            (2).to_bytes(8, "little") + b"{}",
            random.randbytes(100),
        )
    )
    file.write_bytes(content)
    return f"{file.name} is {content[:20]!r} ({len(content)} bytes)"


def many_values(random: Random, folder: Path) -> str:
    """A JSON file of megabytes that take many times as much memory as objects."""
    file = some_file(random, folder)
    piece = random.choice((b"[]", b"{}", b"0", b'""'))
    count = random.choice((1 << 18, 1 << 20, 1 << 22))
    file.write_bytes(b'{"a":[' + b",".join([piece] * count) + b"]}")
    return f"{file.name}: {count} times {piece!r}"


def _none() -> Any:
    raise LookupError


DAMAGE: dict[Mutation, int] = {
    truncate: 6,
    empty: 1,
    flip_bits: 8,
    overwrite: 4,
    shift: 3,
    extend: 2,
    remove: 1,
    exchange: 2,
    garbage: 3,
    many_values: 1,
}
"""Mutation -> how often it is drawn."""
