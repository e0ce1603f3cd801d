"""The limit: every linear of the model as one int8 product of PyTorch, and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from cpu_suite.runner import Runner
from cpu_suite.specs import Place


def build(place: Place) -> Runner:
    """Products of random codes, [B L, inputs] by [inputs, outputs], with weights of their own for every linear."""
    weights = [_codes(inputs, outputs) for inputs, outputs in place.spec.products]
    tokens: dict[int, dict[int, Tensor]] = {}

    def forward(ids: Tensor, rows: Tensor | None) -> None:
        codes = tokens.setdefault(ids.numel(), {})
        for inputs, _ in place.spec.products:
            if inputs not in codes:
                codes[inputs] = _codes(ids.numel(), inputs)
        for weight in weights[:-1]:
            torch.ops.aten._int_mm(codes[weight.shape[0]], weight)
        count = ids.numel() if rows is None else rows.numel()
        torch.ops.aten._int_mm(codes[weights[-1].shape[0]][:count], weights[-1])

    return Runner(forward, None, "int8", None, lambda: "all linears and the head, nothing else")


def _codes(rows: int, columns: int) -> Tensor:
    return torch.randint(-127, 128, (rows, columns), dtype=torch.int8)
