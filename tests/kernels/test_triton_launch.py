"""What a launch says before it."""

from __future__ import annotations

import contextlib
import logging

import pytest
import torch
import triton
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from starquant_fx.kernels.triton import launch


@launch.on_its_device
def operator(x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize(
    ("chip", "version", "warned"),
    [
        (90, "3.6.0", True),
        (90, "3.6.1+git1a2b", True),
        (90, "3.7.1", False),
        (90, "3.10.0", False),
        (86, "3.6.0", False),
        (100, "3.6.0", False),
    ],
)
def test_a_triton_without_fences_is_named_once(
    chip: int,
    version: str,
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(triton, "__version__", version)
    monkeypatch.setattr(launch, "architecture", lambda device: chip)
    monkeypatch.setattr(torch.cuda, "device_of", contextlib.nullcontext)
    launch._warn_of_fences.cache_clear()
    with FakeTensorMode():
        x = torch.empty(2, device="cuda")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            operator(x)
        operator(torch.empty(2))
    launch._warn_of_fences.cache_clear()
    found = [record.getMessage() for record in caplog.records]
    assert len(found) == warned
    assert all("benchmarks/gpu.py --parts checks" in text and version in text for text in found)
