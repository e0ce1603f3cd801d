"""A model of one run."""

from __future__ import annotations

import functools

import torch

from gpu_suite import tile
from gpu_suite.models import random_model
from gpu_suite.random_programs import Captured
from gpu_suite.specs import GpuModel


class Subject:
    """A model of one run: the bf16 model and what variants are made from.

    Args:
        spec: Its sizes.
        device: Where it is.
    """

    def __init__(self, spec: GpuModel, device: torch.device) -> None:
        self.spec, self.device = spec, device
        # Interpreted kernels multiply bf16 wrongly.
        tried = device.type != "cuda" and not tile.missing(device)
        dtype = torch.float32 if tried else torch.bfloat16
        self.model = random_model(spec, device, dtype=dtype)

    @property
    def floats(self) -> str:
        """The type of its own weights: ``bf16``, but ``float32`` where kernels are interpreted."""
        dtype = next(self.model.parameters()).dtype
        return "bf16" if dtype == torch.bfloat16 else str(dtype).removeprefix("torch.")

    @functools.cached_property
    def captured(self) -> Captured:
        """Its capture, which takes a while."""
        return Captured(self.model, self.spec.vocab - 1)
