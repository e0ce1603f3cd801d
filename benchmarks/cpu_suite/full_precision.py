"""The model in fp32 and bf16 through PyTorch, as it is and compiled."""

from __future__ import annotations

from torch._inductor import config

from cpu_suite.runner import Runner, linear_bytes
from cpu_suite.specs import Place
from cpu_suite.weights import load


def build(place: Place, dtype: str, compiled: bool) -> Runner:
    """The model in ``fp32`` or ``bf16``; compiled for every shape of its own, with weights frozen in."""
    model = load(place, dtype)
    held = linear_bytes(model)
    if compiled:
        config.freezing = True
        model.compile(dynamic=False)
    return Runner(lambda ids: model(ids).logits, held, dtype)
