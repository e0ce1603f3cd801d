"""Forged safetensors files: lengths, offsets, shapes, dtypes and names that do not fit each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from checkpoint_fuzz.damage import Mutation, plain_files

METADATA = "__metadata__"
TYPES = (
    "BOOL",
    "U8",
    "I8",
    "I16",
    "U16",
    "I32",
    "I64",
    "F16",
    "BF16",
    "F32",
    "F64",
    "F8_E4M3",
    "X",
    "f32",
    "",
    3,
    None,
)
NUMBERS: tuple[Any, ...] = (
    0,
    1,
    -1,
    7,
    2**31,
    2**32,
    2**40,
    2**62,
    2**63,
    2**64,
    10**30,
    1.5,
    1e300,
    "1",
    None,
    True,
    [],
)
NAMES = (
    "../x",
    "/etc/passwd",
    "a\0b",
    "",
    "weiß",
    "\ud800",
    "x" * 5000,
    METADATA,
    "model.transformer",
    "starquant",
    "a.b.c.d",
    "\x1b[2J",
    "\u202e",
)
LENGTHS = (
    0,
    1,
    7,
    2**20,
    99_999_999,
    100_000_000,
    100_000_001,
    2**31,
    2**32,
    2**63 - 1,
    2**63,
    2**64 - 1,
)

Header = dict[str, Any]


def shards(folder: Path) -> list[Path]:
    """The safetensors files of a folder."""
    return [f for f in plain_files(folder) if f.suffix == ".safetensors"]


def parsed(path: Path) -> tuple[Header, bytes]:
    """A file's header and what follows it; LookupError if it has none."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8:end])
    except (ValueError, RecursionError):
        raise LookupError from None
    if not isinstance(header, dict) or not all(isinstance(e, dict) for e in header.values()):
        raise LookupError
    return header, data[end:]


def write(path: Path, header: Header | str, body: bytes) -> None:
    """Writes a file with any header."""
    text = header if isinstance(header, str) else json.dumps(header, separators=(",", ":"))
    encoded = text.encode("utf-8", "surrogatepass")
    encoded += b" " * (-len(encoded) % 8)
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + body)


def length(random: Random, folder: Path) -> str:
    """Says another length of the header."""
    path = random.choice(shards(folder) or _none())
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    said = random.choice(
        (*LENGTHS, size - 1, size + 1, size - 8, size + 8, len(data) - 8, len(data))
    )
    path.write_bytes((said % 2**64).to_bytes(8, "little") + data[8:])
    return f"{path.name}: a header of {said} bytes"


def entry(random: Random, folder: Path) -> str:
    """Changes what a header says of a tensor."""
    path, header, body = _some(random, folder)
    name = random.choice(_names(header))
    change: Callable[[Random, Header, str, int], str] = random.choice(
        (_dtype, _shape, _shape, _offsets, _offsets, _keys)
    )
    said = change(random, header, name, len(body))
    write(path, header, body)
    return f"{path.name}: {name}: {said}"


def swap(random: Random, folder: Path) -> str:
    """Exchanges the values of two tensors of one size, or the names of any two."""
    path, header, body = _some(random, folder)
    names = _names(header)
    name = random.choice(names)
    size = _size(header[name])
    alike = (
        [n for n in names if n != name and _size(header[n]) == size]
        or [n for n in names if n != name]
        or _none()
    )
    other = random.choice(alike)
    held = header[name]
    if _size(header[other]) == size and random.random() < 0.7:
        a, b = held.get("data_offsets"), header[other].get("data_offsets")
        header[name], header[other] = (
            {**held, "data_offsets": b},
            {**header[other], "data_offsets": a},
        )
    else:
        header[name], header[other] = header[other], held
    write(path, header, body)
    return f"{path.name}: {name} and {other} exchanged"


def rename(random: Random, folder: Path) -> str:
    """Gives a tensor another name."""
    path, header, body = _some(random, folder)
    name = random.choice(_names(header))
    new = random.choice((*NAMES, f"{name}x", name.upper()))
    write(path, {new if n == name else n: e for n, e in header.items()}, body)
    return f"{path.name}: {name} is called {new[:40]!r}"


def drop(random: Random, folder: Path) -> str:
    """Takes a tensor out, with its values or without."""
    path, header, body = _some(random, folder)
    name = random.choice(_names(header))
    begin, end = _span(header.pop(name))
    if random.random() < 0.7:
        body = body[:begin] + body[end:]
        for held in (header[n] for n in header if n != METADATA):
            low, high = _span(held)
            if low >= end:
                held["data_offsets"] = [low - (end - begin), high - (end - begin)]
    write(path, header, body)
    return f"{path.name}: no {name}"


def more(random: Random, folder: Path) -> str:
    """Adds tensors: of no values, of some, or tens of thousands."""
    path, header, body = _some(random, folder)
    count = random.choice((1, 1, 3, 30_000))
    size = random.choice((0, 0, 4))
    for i in range(count):
        shape = [1] if size else [0]
        name = f"more.{i}" if random.random() < 0.9 else random.choice(NAMES)
        header[name] = {
            "dtype": "F32",
            "shape": shape,
            "data_offsets": [len(body), len(body) + size],
        }
        body += b"\0" * size
    write(path, header, body)
    return f"{path.name}: {count} tensors more of {size} bytes"


def text(random: Random, folder: Path) -> str:
    """Changes the text of a header: keys twice, other metadata, nesting, no object."""
    path, header, body = _some(random, folder)
    whole = json.dumps(header, separators=(",", ":"))
    name = random.choice(_names(header))
    twice = f"{json.dumps(name)}:{json.dumps(header[random.choice(_names(header))])}"
    said = random.choice(
        (
            f"{{{twice},{whole[1:]}",
            f"{whole[:-1]},{twice}}}",
            f'{{"{METADATA}":{random.choice(("3", "null", "[]", chr(34) * 2))},{whole[1:]}',
            f'{{"{METADATA}":{{"format":{random.choice(("3", "{}", "null"))}}},{whole[1:]}',
            "[" * 50_000,
            '{"a":' * 50_000,
            f"[{whole}]",
            whole.replace("data_offsets", "data_offset", 1),
            whole.replace(":[", ":[[", 1),
            whole.replace('"shape":[', '"shape":[NaN,', 1),
            "\ufeff" + whole,
            " " * random.choice((1, 8, 100_000)) + whole,
        )
    )
    write(path, said, body)
    return f"{path.name}: a header that begins with {said[:60]!r}"


def move(random: Random, folder: Path) -> str:
    """Moves a tensor from one file to another."""
    one, other = random.sample(shards(folder), 2)
    (from_header, from_body), (to_header, to_body) = parsed(one), parsed(other)
    name = random.choice(_names(from_header))
    begin, end = _span(from_header[name])
    held = from_header[name] if random.random() < 0.3 else from_header.pop(name)
    to_header[name] = {**held, "data_offsets": [len(to_body), len(to_body) + end - begin]}
    write(one, from_header, from_body)
    write(other, to_header, to_body + from_body[begin:end])
    return f"{name} of {one.name} is in {other.name}"


def values(random: Random, folder: Path) -> str:
    """Gives one tensor other values: extremes of its type, or any."""
    path, header, body = _some(random, folder)
    name = random.choice(_names(header))
    begin, end = _span(header[name])
    if not 0 <= begin < end <= len(body):
        raise LookupError
    held = bytearray(body)
    fill = random.choice((b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0\xc0\x7f", b"\0\0\x80\x7f", None))
    made = random.randbytes(end - begin) if fill is None else (fill * (end - begin))[: end - begin]
    start = random.choice((begin, random.randrange(begin, end) // 4 * 4))
    start = max(begin, start)
    held[start:end] = made[: end - start]
    write(path, header, bytes(held))
    return f"{path.name}: {name} from {start - begin} on filled with {fill!r}"


def _dtype(random: Random, header: Header, name: str, _: int) -> str:
    header[name]["dtype"] = random.choice(TYPES)
    return f"dtype {header[name]['dtype']!r}"


def _shape(random: Random, header: Header, name: str, _: int) -> str:
    shape = list(header[name].get("shape") or [])
    made: Any = random.choice(
        (
            shape[::-1],
            [*shape, 1],
            [1] * random.choice((1, 63, 64, 65, 1000)) + shape,
            [],
            [0, *shape],
            [2**32, 2**32],
            [2**62, 4],
            [random.choice(NUMBERS) if random.random() < 0.5 else n for n in shape],
            [n + random.choice((-1, 1)) for n in shape],
            random.choice(NUMBERS),
        )
    )
    header[name]["shape"] = made
    if random.random() < 0.3:  # a size that agrees with the shape, and not with the file
        begin, _ = _span(header[name])
        count = 1
        for n in made if isinstance(made, list) else []:
            count *= n if isinstance(n, int) else 1
        header[name]["data_offsets"] = [begin, begin + 4 * count]
    return f"shape {str(made)[:60]}"


def _offsets(random: Random, header: Header, name: str, size: int) -> str:
    begin, end = _span(header[name])
    other = _span(header[random.choice(_names(header))])
    made: Any = random.choice(
        (
            list(other),
            [end, begin],
            [begin + 1, end + 1],
            [begin - 1, end - 1],
            [begin, end + 4],
            [begin + 4, end],
            [size, size + end - begin],
            [2**63, 2**63 + end - begin],
            [random.choice(NUMBERS), random.choice(NUMBERS)],
            [begin],
            random.choice(NUMBERS),
        )
    )
    header[name]["data_offsets"] = made
    return f"offsets {made} for {begin} to {end}"


def _keys(random: Random, header: Header, name: str, _: int) -> str:
    key = random.choice(("dtype", "shape", "data_offsets"))
    if random.random() < 0.5:
        header[name].pop(key, None)
        return f"no {key}"
    header[name]["more"] = random.choice(NUMBERS)
    return "a key more"


def _some(random: Random, folder: Path) -> tuple[Path, Header, bytes]:
    path = random.choice(shards(folder) or _none())
    header, body = parsed(path)
    _names(header)
    return path, header, body


def _names(header: Header) -> list[str]:
    return [n for n in header if n != METADATA] or _none()


def _span(held: Header) -> tuple[int, int]:
    """A tensor's offsets; LookupError where an earlier change left none."""
    span = held.get("data_offsets")
    if isinstance(span, list) and len(span) == 2 and all(type(n) is int for n in span):
        return span[0], span[1]
    raise LookupError


def _size(held: Header) -> int:
    begin, end = _span(held)
    return end - begin


def _none() -> Any:
    raise LookupError


HEADERS: dict[Mutation, int] = {
    length: 2,
    entry: 8,
    swap: 2,
    rename: 2,
    drop: 1,
    more: 1,
    text: 2,
    move: 1,
    values: 3,
}
"""Mutation -> how often it is drawn."""
