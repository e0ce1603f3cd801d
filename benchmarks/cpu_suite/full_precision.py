"""The model in fp32 and bf16 through PyTorch, as it is and compiled."""

from __future__ import annotations

from cpu_suite.runner import Runner, linear_bytes, torch_forward
from cpu_suite.specs import Place
from cpu_suite.weights import load


def build(place: Place, dtype: str, compiled: bool) -> Runner:
    """The model in ``fp32`` or ``bf16``; compiled for every shape of its own, with weights frozen in."""
    model = load(place, dtype)
    held = linear_bytes(model)
    return Runner(torch_forward(model, compiled), held, dtype)
