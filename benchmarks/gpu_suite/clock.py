"""Time and memory on a device: CUDA events and graphs there, the wall clock on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from structures import wall

T = TypeVar("T")
WARM = 2
"""Calls before a capture, in which kernels are compiled and chosen."""


class Clock:
    """Measures on one device.

    Args:
        device: The device; its default stream is where calls run.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cuda = device.type == "cuda"

    def wait(self) -> None:
        """Waits until the device has done all that it was given."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, call: Callable[[], Any]) -> float:
        """Seconds that the device is busy with one call; by the wall clock on a CPU."""
        if not self.cuda:
            return wall(call)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.wait()
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def growth(self, call: Callable[[], T]) -> tuple[T, int | None]:
        """Runs a call; returns its result, and by how many bytes memory was above what is held now, at most.

        On a CPU that is not known.
        """
        if not self.cuda:
            return call(), None
        self.wait()
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        result = call()
        self.wait()
        return result, torch.cuda.max_memory_allocated(self.device) - before

    def captured(self, call: Callable[[], T]) -> tuple[Callable[[], Any], T]:
        """A call as one CUDA graph, and its result, which every replay overwrites; on a CPU the call itself.

        Raises:
            RuntimeError: Something in it cannot be captured, such as waiting for the device.
        """
        if not self.cuda:
            return call, call()
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(WARM):
                call()
        torch.cuda.current_stream(self.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = call()
        return graph.replay, result

    def release(self) -> None:
        """Gives memory that nothing holds back to the device."""
        if self.cuda:
            torch.cuda.empty_cache()
