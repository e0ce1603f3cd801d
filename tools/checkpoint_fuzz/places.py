"""Files that are elsewhere or no files: links, pipes, folders, other names, more files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from random import Random

from checkpoint_fuzz.damage import Mutation, plain_files, some_file


def link(random: Random, folder: Path) -> str:
    """Puts a link in a file's place: to where it was moved, to another file, to itself or to a device."""
    file = some_file(random, folder)
    kind = random.choice(
        ("outside", "inside", "loop", "chain", "nowhere", "zero", "folder", "other")
    )
    others = [f for f in plain_files(folder) if f != file]
    target = {
        "outside": folder.parent / "elsewhere",
        "inside": folder / "elsewhere",
        "loop": file,
        "chain": folder / "chained",
        "nowhere": folder.parent / "nowhere",
        "zero": Path("/dev/zero"),
        "folder": folder.parent,
        "other": random.choice(others) if others else file,
    }[kind]
    if kind in ("outside", "inside"):
        shutil.move(file, target)
    else:
        file.unlink()
    if kind == "chain":
        target.symlink_to(file)
    file.symlink_to(target if random.random() < 0.5 else os.path.relpath(target, folder))
    return f"{file.name} is a link: {kind}"


def special(random: Random, folder: Path) -> str:
    """Puts a pipe or a folder in a file's place."""
    file = some_file(random, folder)
    file.unlink()
    if random.random() < 0.5:
        os.mkfifo(file)
        return f"{file.name} is a pipe"
    file.mkdir()
    return f"{file.name} is a folder"


def rename(random: Random, folder: Path) -> str:
    """Gives a file another name."""
    file = some_file(random, folder)
    name = random.choice(
        (file.name.upper(), f"{file.name} ", f".{file.name}", "model.safetensors", "a")
    )
    file.rename(folder / name)
    return f"{file.name} is called {name!r}"


def add(random: Random, folder: Path) -> str:
    """Puts in a file or folder that does not belong there."""
    name = random.choice(
        (
            "model-00009-of-00009.safetensors",
            "tokenizer.json",
            "model.safetensors",
            ".hidden",
            "a",
            "x.py",
        )
    )
    path = folder / name
    kind = random.choice(("file", "folder", "pipe", "link"))
    if kind == "file":
        path.write_bytes(random.choice((b"", b"{}", random.randbytes(50))))
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(random.choice(("/dev/zero", "nowhere", "..", name)))
    return f"{name}: a {kind} more"


PLACES: dict[Mutation, int] = {link: 4, special: 2, rename: 1, add: 2}
"""Mutation -> how often it is drawn."""
