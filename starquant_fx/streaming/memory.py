"""How much memory a run may take, and how much it takes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from pathlib import Path

from starquant_fx.errors import ConfigError
from starquant_fx.sizes import SIZES, UNITS, in_bytes, shown_size

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def parse_size(given: str | int, where: str = "memory_limit") -> int:
    """Bytes of a size such as ``8GiB``, ``500MB`` or ``8000000000``.

    Raises:
        ConfigError: It is none.
    """
    size = in_bytes(given)
    if size is None:
        raise ConfigError(
            "this is no size",
            where=where,
            expected=SIZES,
            got=repr(given),
            hint=UNITS,
        )
    return size


def resident() -> int:
    """Bytes of this process in memory now, maps of files included; 0 where the system does not tell."""
    return _status("VmRSS")


def peak_resident() -> int:
    """The most bytes that this process had in memory at once, maps of files included."""
    if found := _status("VmHWM"):
        return found
    if sys.platform == "win32":
        return 0
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def check_memory(limit: int | None, after: str) -> None:
    """Raises a ConfigError if the process took more memory than a limit in bytes says."""
    peak = peak_resident()
    if limit is not None and peak > limit:
        raise ConfigError(
            "the run took more memory than it may",
            where=f"memory_limit, after {after}",
            expected=f"at most {shown_size(limit)} ({limit:,} bytes)",
            got=shown_size(peak),
            hint="raise the limit, such as 8GiB (a number alone is bytes): parts that are done are kept. Or begin "
            "anew, calibrating on fewer tokens",
        )


def forget_peak() -> None:
    """Has the peak counted from now on, where the system can do that: what a process did before is not the run's."""
    with contextlib.suppress(OSError):
        CLEAR.write_text("5", encoding="ascii")


def give_back() -> None:
    """Returns to the system what nothing holds any more."""
    gc.collect()
    if sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)


def _status(key: str) -> int:
    try:
        for line in STATUS.read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name == key:
                return int(value.split()[0]) * 1024
    except (OSError, ValueError):
        pass
    return 0
