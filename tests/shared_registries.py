"""One registry of ONNX functions for all exports of a version: torch makes it anew each time, which takes longer."""

from __future__ import annotations

import functools
import sys
from typing import Any

import pytest


def share_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets torch's exporter copy the registry that it made first.

    Nothing happens where no test that was collected exports, and under a torch that has it in another place.
    """
    if "onnxscript" not in sys.modules:
        return
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:
        return
    make = getattr(ONNXRegistry, "from_torchlib", None)
    if make is None:
        return
    made: Any = functools.cache(make)

    def copied(cls: Any, *arguments: Any, **options: Any) -> Any:
        first = made(*arguments, **options)
        registry = cls()
        vars(registry).update(vars(first))
        registry.functions = {target: [*found] for target, found in first.functions.items()}
        return registry

    monkeypatch.setattr(ONNXRegistry, "from_torchlib", classmethod(copied))
