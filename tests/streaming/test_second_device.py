"""Block by block on another device than the CPU, where the model's files are read: a simulated one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import _disable_current_modes

import starquant_fx
from starquant_fx.recipe import Recipe
from starquant_fx.streaming.parts import Parts
from tests.second_device import DEVICE
from tests.streaming.cases import stream
from tests.test_devices import second_device

__all__ = ["second_device"]
CPU = torch.device("cpu")


@pytest.mark.usefixtures("second_device")
@pytest.mark.parametrize("ids", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_run_on_another_device(
    ids: bool, llada: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model runs on the CPU for what it generates, and its parts where they are asked for."""
    options = {} if ids else {"calibration": None}
    real = Parts.of

    def of(model: nn.Module, recipe: Recipe, mask_id: int | None, device: torch.device) -> Parts:
        """The parts of a capture on the second device, which can only be made on the CPU."""
        with _disable_current_modes(), sdpa_kernel(SDPBackend.MATH):  # the only one that it has
            parts = real(model, recipe, mask_id, CPU)
        for node in parts.captured.graph.nodes if device == DEVICE else ():
            if "device" in node.kwargs:
                node.kwargs = {**node.kwargs, "device": DEVICE}
            if isinstance(value := node.meta.get("val"), Tensor):
                with parts.captured.fake_mode:
                    node.meta["val"] = value.to(DEVICE)
        return parts

    monkeypatch.setattr(Parts, "of", of)
    there = stream(llada, tmp_path / "b", "gptq+tac-w4a4", device=DEVICE, **options)
    with _disable_current_modes():
        here = stream(llada, tmp_path / "a", "gptq+tac-w4a4", **options)
        right, found = starquant_fx.load(here).tensors(), starquant_fx.load(there).tensors()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, right[name], msg=name)
