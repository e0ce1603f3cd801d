"""Calls of lowered graphs recorded as CUDA graphs and replayed: the host launches one thing instead of hundreds.

A recording has fixed shapes and reads and writes memory of its own, so a call's tensors are copied into it and its
results out of it. Calls of many tokens or with large results, which are long enough to launch while they run, are not
recorded. Making a recording waits for the device once.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

KEPT = 16
"""Recordings that are kept; the one that was used longest ago goes first."""
MOST_TOKENS = 4096
"""Elements of the first input, the token ids, of a recorded call at most."""
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

    def turn(self, recording: Recording) -> contextlib.AbstractContextManager[None]:
        """Where a replay and the copies around it are launched: after those before, as recordings share memory."""
        ...

    def wait(self) -> None:
        """Waits until all replays are done, so that recordings can be dropped."""
        ...


class CudaGraphs:
    """The ``Recorder`` of CUDA devices; all recordings of a device share one stream and one pool of memory."""

    def __init__(self) -> None:
        self._made: dict[torch.device, tuple[torch.cuda.Stream, Any]] = {}
        self._done: dict[torch.device, torch.cuda.Event] = {}

    def records(self, inputs: Sequence[Tensor]) -> bool:
        """Whether all inputs are plain tensors on one CUDA device and nobody else is recording or tracing."""
        return (
            not torch.compiler.is_compiling()
            and all(type(x) is Tensor and x.is_cuda for x in inputs)
            and len({x.device for x in inputs}) == 1
            and not torch.cuda.is_current_stream_capturing()
            and not torch.is_autocast_enabled("cuda")
        )

    def record(self, call: Call, inputs: tuple[Tensor, ...]) -> Recording:
        """Runs a call once on the stream of recordings, so that libraries make their workspaces, and records it."""
        device = inputs[0].device
        with torch.cuda.device(device):
            if device not in self._made:
                self._made[device] = (torch.cuda.Stream(), torch.cuda.graph_pool_handle())
            stream, pool = self._made[device]
            graph = torch.cuda.CUDAGraph()
            stream.wait_stream(torch.cuda.current_stream())
            # This context comes back from the stream also where the recording's own does not, because it failed.
            with torch.cuda.stream(stream):
                call(*inputs)
                stream.synchronize()
                with torch.cuda.graph(
                    graph, pool=pool, stream=stream, capture_error_mode="thread_local"
                ):
                    results = call(*inputs)
            torch.cuda.current_stream().wait_stream(stream)
            return Recording(inputs, results, graph.replay)

    @contextlib.contextmanager
    def turn(self, recording: Recording) -> Iterator[None]:
        """The recording's device, after the replay before, which may have been launched on another stream."""
        device = recording.inputs[0].device
        with torch.cuda.device(device):
            if device in self._done:
                torch.cuda.current_stream().wait_event(self._done[device])
            try:
                yield
            finally:
                self._done[device] = torch.cuda.Event()
                self._done[device].record()

    def wait(self) -> None:
        """Waits for the last replay on every device."""
        for event in self._done.values():
            event.synchronize()


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
            self._drop(list(self._found))

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
                if inputs[0].numel() <= MOST_TOKENS and _size(results) <= LARGEST_RESULT:
                    self._keep(key, None)
                return results
            recording = self._found.get(key) or self._record(recorder, call, inputs)
            if recording is None:
                return call(*inputs)
            self._keep(key, recording)
            with recorder.turn(recording):
                for own, given in zip(recording.inputs, inputs, strict=True):
                    own.copy_(given)
                recording.replay()
                results = recording.results
                if isinstance(results, Tensor):
                    return results.clone()
                return tuple(result.clone() for result in results)

    def _keep(self, key: Any, recording: Recording | None) -> None:
        self._found[key] = recording
        self._found.move_to_end(key)
        if len(self._found) > KEPT:
            self._drop([next(iter(self._found))])

    def _drop(self, keys: list[Any]) -> None:
        """Forgets recordings, whose memory may be used again at once."""
        if self._recorder is not None and any(self._found[key] is not None for key in keys):
            self._recorder.wait()
        for key in keys:
            del self._found[key]

    def _record(self, recorder: Recorder, call: Call, inputs: Sequence[Tensor]) -> Recording | None:
        """A recording; None, with a warning, where that fails, and then nothing is recorded any more."""
        try:
            with torch.inference_mode(False), torch.no_grad():
                return recorder.record(call, tuple(x.clone() for x in inputs))
        except RuntimeError as error:
            self._drop(list(self._found))
            self._recorder = None
            warnings.warn(
                f"a call could not be recorded as a CUDA graph, which makes short calls slower: {error}",
                stacklevel=4,
            )
            return None


def _size(results: Tensor | tuple[Tensor, ...]) -> int:
    """Bytes of results."""
    every = (results,) if isinstance(results, Tensor) else results
    return sum(result.numel() * result.element_size() for result in every)
