"""Time in forward passes."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

from starquant_fx.evaluation.alignment import Model


class Timed(nn.Module):
    """A model that adds up the seconds of its forward passes.

    Args:
        model: The model.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.config = getattr(model, "config", None)
        self.seconds = 0.0

    def forward(self, input_ids: Tensor, **arguments: Any) -> Any:
        """Calls the model on ids [B, L], and what else it takes; returns what it returns."""
        start = time.perf_counter()
        output = self.model(input_ids, **arguments)
        if input_ids.is_cuda:
            torch.cuda.synchronize(input_ids.device)
        self.seconds += time.perf_counter() - start
        return output
