"""What a case may use: time, and memory beyond what was there before."""

from __future__ import annotations

import contextlib
import dataclasses
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESIDENT_AGAIN = "5"
"""Written to ``clear_refs``, it makes Linux count the highest resident memory from now on."""
WAITING = 4
"""Times the processor time that a case may take in all: on a busy machine it waits."""
ADDRESSES = 8 << 30
"""Addresses that a worker may have beyond its own; what asks for more is refused by the system."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Of one case.

    Attributes:
        seconds: Of the processor; ``WAITING`` times as many in all, so that a busy machine is no defect.
        memory: Bytes, resident or asked for, beyond what was there before.
    """

    seconds: float = 30.0
    memory: int = 256 << 20


class TooLong(BaseException):
    """A case ran out of its time; no handler of errors holds it up."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises TooLong in the block once the time is up."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLong

    timers = (
        (signal.SIGPROF, signal.ITIMER_PROF, seconds),
        (signal.SIGALRM, signal.ITIMER_REAL, WAITING * seconds),
    )
    before = [signal.signal(number, stop) for number, _, _ in timers]
    for _, timer, most in timers:
        signal.setitimer(timer, most)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


class Memory:
    """How much memory is taken at most from when this is made.

    Args:
        mapped: Bytes of files; addresses of maps of them are no memory.
    """

    def __init__(self, mapped: int = 0) -> None:
        self._mapped = mapped
        with contextlib.suppress(OSError):
            CLEAR.write_text(RESIDENT_AGAIN)
        self._before = _status()

    def taken(self) -> int:
        """Bytes: the most that was resident, or a new record of addresses, beyond what was there at the beginning."""
        now, before = _status(), self._before
        resident = now["VmHWM"] - before["VmRSS"]
        record = now["VmPeak"] > before["VmPeak"]
        addresses = now["VmPeak"] - before["VmSize"] - self._mapped
        return max(resident, addresses if record else 0)


def bound_addresses() -> None:
    """Has the system refuse memory far beyond any limit, so that a case cannot take the machine's."""
    most = _status()["VmSize"] + ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _status() -> dict[str, int]:
    lines = (line.split() for line in STATUS.read_text().splitlines())
    return {line[0][:-1]: int(line[1]) * 1024 for line in lines if line[0].startswith("Vm")}
