"""What is loaded: packed checkpoints, folders of full-precision models, and artifacts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

import starquant_fx
from checkpoint_fuzz import bases
from checkpoint_fuzz.cases import Case
from checkpoint_fuzz.headers import METADATA, parsed, shards
from checkpoint_fuzz.shortcut import Traces
from starquant_fx.compiled import CompiledModel
from starquant_fx.errors import InputError
from starquant_fx.program import CONSTANTS


class Subject(Protocol):
    """A kind of folder that is loaded."""

    hashed: bool

    def attempt(self, folder: Path, case: Case) -> str:
        """Loads a changed folder; says what differs from the sound one."""
        ...


class Packed:
    """A packed checkpoint.

    Args:
        sound: The checkpoint.
    """

    hashed = True

    def __init__(self, sound: Path) -> None:
        self._traces = Traces()
        loaded = starquant_fx.load(sound)
        self._right, self._computes = _digests(loaded), _computed(loaded)

    def attempt(self, folder: Path, case: Case) -> str:
        """Loads a changed folder; says what differs from the sound one."""
        with self._traces.kept():
            loaded = starquant_fx.load(folder, check=case.check)
        found = _digests(loaded)
        odd = sorted(
            n for n in found.keys() | self._right.keys() if found.get(n) != self._right.get(n)
        )
        if odd:
            return (
                f"{len(odd)} tensors, {odd[0]}"
                if _runs(loaded)
                else f"{odd[0]}, refused when called"
            )
        return "" if _runs(loaded) == self._computes else "logits"


class Model:
    """A folder of a full-precision model, which has no hashes.

    Args:
        sound: The folder.
    """

    hashed = False

    def __init__(self, sound: Path) -> None:
        loaded, _ = starquant_fx.from_pretrained(sound)
        self._right = _of(loaded.state_dict())

    def attempt(self, folder: Path, case: Case) -> str:
        """Loads a changed folder; says what differs from the sound one."""
        loaded, _ = starquant_fx.from_pretrained(folder)
        found = _of(loaded.state_dict())
        _check_as_written(found, folder)
        return "" if found == self._right else "other tensors"


class Artifact:
    """A folder with an artifact, which has no hashes.

    Args:
        sound: The folder.
    """

    hashed = False

    def __init__(self, sound: Path) -> None:
        self._model = bases.model()
        self._right = self._loaded(sound)

    def _loaded(self, folder: Path) -> dict[str, str]:
        loaded = starquant_fx.load_artifact(self._model, folder / bases.ARTIFACT)
        _runs(loaded)
        return {n: d for n, d in _digests(loaded).items() if n.startswith(CONSTANTS)}

    def attempt(self, folder: Path, case: Case) -> str:
        """Loads a changed folder; says what differs from the sound one."""
        found = self._loaded(folder)
        _check_as_written(found, folder)
        return "" if found == self._right else "other tensors"


def _check_as_written(found: dict[str, str], folder: Path) -> None:
    """Compares loaded tensors with the files, read here in another way.

    Raises:
        AssertionError: A tensor is not what a file holds.
    """
    for path in shards(folder):
        header, body = parsed(path)
        for name, entry in header.items():
            if name == METADATA:
                continue
            begin, end = entry["data_offsets"]
            digest = hashlib.sha256(body[begin:end]).hexdigest()
            assert name not in found or found[name].endswith(digest), (
                f"{name} is not what {path} holds"
            )


def ids() -> Tensor:
    """Token ids of all calls, [1, 8]."""
    return (torch.arange(8)[None] * 7 + 3) % bases.VOCABULARY


def _computed(model: CompiledModel) -> str:
    return _digest(model(ids()).logits)


def _runs(model: CompiledModel) -> str:
    """What it computes; empty if it refuses what it finds in its tensors."""
    try:
        return _computed(model)
    except InputError:
        return ""


def _digests(model: CompiledModel) -> dict[str, str]:
    return _of(model.tensors())


def _of(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: _digest(tensor) for name, tensor in tensors.items()}


def _digest(tensor: Tensor) -> str:
    values = tensor.detach().contiguous().flatten().view(torch.uint8).numpy()
    return f"{tensor.dtype} {list(tensor.shape)} {hashlib.sha256(values.data).hexdigest()}"
