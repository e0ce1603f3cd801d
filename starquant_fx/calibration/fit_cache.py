"""Fits on disk by the hash of what they were made from, so that a compilation goes on where it was killed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from starquant_fx.errors import InputError
from starquant_fx.files import write_atomically
from starquant_fx.fingerprint import fingerprint

FORMAT = "starquant-fit-2"
"""Counts up whenever a fit itself changes, which makes older entries strangers."""

Fit = tuple[dict[str, Tensor], dict[str, float]]
"""Tensors and figures, by name."""


class FitCache:
    """Fits in a folder.

    Args:
        folder: Made if missing.

    Raises:
        InputError: The folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                "the cache folder cannot be made",
                where=str(folder),
                expected="a folder, or a name for one",
                got=str(error),
            ) from error
        self.folder = folder

    def get(self, path: Path) -> Fit | None:
        """The fit kept at a path; None if there is none that can be read."""
        try:
            with safe_open(path, "pt") as file:
                place = torch.get_default_device()
                tensors = {name: file.get_tensor(name).to(place) for name in file.keys()}  # noqa: SIM118
                figures = json.loads(file.metadata()[FORMAT])
                return tensors, {str(name): float(value) for name, value in figures.items()}
        except (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError):
            return None  # missing or damaged: it is fitted again

    def put(self, path: Path, fit: Fit) -> None:
        """Keeps a fit, whole or not at all."""
        tensors, figures = fit
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        write_atomically(path, save(whole, {FORMAT: json.dumps(figures)}))


def remembered(
    cache: FitCache | None, tensors: dict[str, Tensor], values: object, make: Callable[[], Fit]
) -> Fit:
    """Makes a fit, or takes the one that was made of the same tensors and values before.

    Args:
        cache: Where fits are kept; None = nowhere.
        tensors: What the fit depends on.
        values: What else it depends on: the kind of fit and its options, JSON-ready.
        make: Makes it.

    Returns:
        The fit.
    """
    if cache is None:
        return make()
    named = json.dumps([FORMAT, fingerprint(tensors), values], sort_keys=True)
    path = cache.folder / f"{hashlib.sha256(named.encode()).hexdigest()}.safetensors"
    fit = cache.get(path)
    if fit is None:
        fit = make()
        cache.put(path, fit)
    return fit
