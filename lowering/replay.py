"""Calls of lowered graphs recorded as CUDA graphs and replayed: the host launches one thing instead of hundreds.

A recording has fixed shapes and reads and writes memory of its own, so a call's tensors are copied into it and its
results out of it; calls with large results, which are long enough to launch while they run, are not recorded.
"""

from __future__ import annotations

import collections
import dataclasses
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

KEPT = 16
"""Recordings that are kept; the one that was used longest ago goes first."""
LARGEST_RESULT = 1 << 28
"""Bytes of the results of a recorded call at most."""

Call = Callable[..., Tensor | tuple[Tensor, ...]]


@dataclasses.dataclass(frozen=True)
class Recording:
    """A recorded call.

    Attributes:
        inputs: What it reads.
        results: What it writes.
        replay: Computes the results from the inputs again.
    """

    inputs: tuple[Tensor, ...]
    results: Tensor | tuple[Tensor, ...]
    replay: Callable[[], None]


class Recorder(Protocol):
    """Records calls, on one kind of device."""

    def records(self, inputs: Sequence[Tensor]) -> bool:
        """Whether a call with these inputs can be recorded or replayed now."""
        ...

    def record(self, call: Call, inputs: tuple[Tensor, ...]) -> Recording:
        """Records a call that reads ``inputs``, which stay its own; raises a RuntimeError if that fails."""
        ...

    def enter(self) -> None:
        """Lets what follows wait for the replay before; recordings share their memory."""
        ...

    def leave(self) -> None:
        """Says that a replay and the copies of its results are on their way."""
        ...


class CudaGraphs:
    """The ``Recorder`` of CUDA devices; all recordings share one pool of memory."""

    def __init__(self) -> None:
        self._pool: Any = None
        self._done: torch.cuda.Event | None = None

    def records(self, inputs: Sequence[Tensor]) -> bool:
        """Whether all inputs are plain tensors on one CUDA device and nobody else is recording or tracing."""
        return (
            not torch.compiler.is_compiling()
            and all(type(x) is Tensor and x.is_cuda for x in inputs)
            and len({x.device for x in inputs}) == 1
            and not torch.cuda.is_current_stream_capturing()
        )

    def record(self, call: Call, inputs: tuple[Tensor, ...]) -> Recording:
        """Runs a call once on a stream of its own, so that libraries make their workspaces, and records it."""
        with torch.cuda.device(inputs[0].device):
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                call(*inputs)
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(
                graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
            ):
                results = call(*inputs)
            return Recording(inputs, results, graph.replay)

    def enter(self) -> None:
        """Lets the current stream wait for the replay before, which may run on another stream."""
        if self._done is not None:
            torch.cuda.current_stream().wait_event(self._done)

    def leave(self) -> None:
        """Marks the end of a replay on the current stream."""
        self._done = torch.cuda.Event()
        self._done.record()


class Replays:
    """Calls, recorded when the same call comes a second time with tensors of the same shapes.

    Calls may come from several threads; replays follow one another.

    Args:
        recorder: Of the device.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder: Recorder | None = recorder
        self._lock = threading.RLock()
        self._found: collections.OrderedDict[Any, Recording | None] = collections.OrderedDict()

    def clear(self) -> None:
        """Forgets all recordings, as when tensors that they read have moved."""
        with self._lock:
            self._found.clear()

    def __call__(self, call: Call, inputs: Sequence[Tensor]) -> Any:
        """What ``call(*inputs)`` returns.

        Args:
            call: A lowered graph, whose results depend on nothing but its inputs and tensors that stay where they are.
            inputs: Its inputs.

        Returns:
            The result or results, in new tensors.
        """
        recorder = self._recorder
        if recorder is None or not recorder.records(inputs):
            return call(*inputs)
        key = (call, *((x.shape, x.dtype, x.device) for x in inputs))
        with self._lock:
            if key not in self._found:
                results = call(*inputs)
                if _size(results) <= LARGEST_RESULT:
                    self._keep(key, None)
                return results
            recording = self._found.get(key) or self._record(recorder, call, inputs)
            if recording is None:
                return call(*inputs)
            self._keep(key, recording)
            recorder.enter()
            for own, given in zip(recording.inputs, inputs, strict=True):
                own.copy_(given)
            recording.replay()
            results = recording.results
            copies = (
                results.clone()
                if isinstance(results, Tensor)
                else tuple(result.clone() for result in results)
            )
            recorder.leave()
            return copies

    def _keep(self, key: Any, recording: Recording | None) -> None:
        self._found[key] = recording
        self._found.move_to_end(key)
        if len(self._found) > KEPT:
            self._found.popitem(last=False)

    def _record(self, recorder: Recorder, call: Call, inputs: Sequence[Tensor]) -> Recording | None:
        """A recording; None, with a warning, where that fails, and then nothing is recorded any more."""
        try:
            with torch.inference_mode(False), torch.no_grad():
                return recorder.record(call, tuple(x.clone() for x in inputs))
        except RuntimeError as error:
            self._recorder = None
            self._found.clear()
            warnings.warn(
                f"a call could not be recorded as a CUDA graph, which makes short calls slower: {error}",
                stacklevel=4,
            )
            return None


def _size(results: Tensor | tuple[Tensor, ...]) -> int:
    """Bytes of results."""
    every = (results,) if isinstance(results, Tensor) else results
    return sum(result.numel() * result.element_size() for result in every)
