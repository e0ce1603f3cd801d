"""Fitted sites on disk by the hash of what they were fitted from, so that a compilation goes on where it was killed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from starquant_fx.calibration.basis_fit import FitOptions, FittedSite, SiteProblem
from starquant_fx.errors import InputError
from starquant_fx.files import write_atomically
from starquant_fx.fingerprint import fingerprint

FORMAT = "starquant-fit-1"
"""Counts up whenever the fit itself changes, which makes older entries strangers."""
FIGURES = ("before", "after", "leakage")


class FitCache:
    """Fitted sites in a folder.

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

    def path(self, problem: SiteProblem, factors: list[torch.Tensor], options: FitOptions) -> Path:
        """Where a fit is kept: named by everything that its result depends on."""
        tensors = {
            "tokens": problem.tokens,
            "label": problem.label,
            "weight": problem.weight,
            "gates": problem.gates,
            **{f"factor_{i}": factor for i, factor in enumerate(factors)},
        }
        values = [
            FORMAT,
            fingerprint(tensors),
            dataclasses.asdict(problem.shape),
            dataclasses.asdict(problem.options),
            problem.clip,
            dataclasses.asdict(options),
        ]
        key = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{key}.safetensors"

    def get(self, path: Path) -> FittedSite | None:
        """The fit kept at a path; None if there is none that can be read."""
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                figures = json.loads(file.metadata()[FORMAT])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None  # missing or damaged: it is fitted again
        count = sum(name.startswith("factor_") for name in tensors)
        return FittedSite(
            [tensors[f"factor_{i}"] for i in range(count)],
            tensors["clip"],
            tensors["clip_weight"],
            *(float(figures[name]) for name in FIGURES),
        )

    def put(self, path: Path, fitted: FittedSite) -> None:
        """Keeps a fit, whole or not at all."""
        tensors = {f"factor_{i}": f.contiguous() for i, f in enumerate(fitted.factors)}
        tensors |= {"clip": fitted.clip, "clip_weight": fitted.clip_weight}
        figures = {name: getattr(fitted, name) for name in FIGURES}
        write_atomically(path, save(tensors, {FORMAT: json.dumps(figures)}))
