"""What the processor can do, as far as the system says it."""

from __future__ import annotations

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
"""Where Linux lists the flags of every processor."""
X86 = "sse2"
VNNI = frozenset(["avx512_vnni", "avx_vnni", "avx_vnni_int8"])
"""Flags of processors that sum products of bytes in 32 bits."""


def lacks_vnni() -> bool:
    """Whether this is an x86 processor without VNNI; False where nothing says so, as on other systems than Linux."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    for line in lines:
        name, _, flags = line.partition(":")
        if name.strip() == "flags":
            found = set(flags.split())
            return X86 in found and not found & VNNI
    return False
