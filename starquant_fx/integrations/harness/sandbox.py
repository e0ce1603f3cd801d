"""Runs a program that nobody has read, within limits.

The limits stop accidents: endless loops, hunger for memory, swarms of processes, deleted files, secrets in the
environment, connections. They are no wall against a program that attacks on purpose; for that, run everything in a
container or a virtual machine without network.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from starquant_fx.errors import StarQuantError

CHILD = Path(__file__).with_name("sandbox_child.py")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a program may use.

    Attributes:
        cpu_seconds: Processor time.
        wall_seconds: Time until it is killed.
        memory_bytes: Address space.
        file_bytes: Size of each file that it writes into its temporary folder.
    """

    cpu_seconds: int = 5
    wall_seconds: float = 10.0
    memory_bytes: int = 1 << 30
    file_bytes: int = 1 << 20


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Attributes:
        passed: It ran to its end.
        reason: Why not: the exception's name, "time", or how the process ended; empty if it passed.
    """

    passed: bool
    reason: str = ""


def run_program(program: str, limits: Limits | None = None) -> Outcome:
    """Runs a Python program to its end in a subprocess of its own.

    It runs in an empty temporary folder that is deleted afterwards, with an empty environment, the standard library
    only, no input, and output that goes nowhere. It may start no processes, open no connections, read nothing but the
    standard library and its folder, and write nowhere else. Leaving early (``exit()``) does not count as passing.

    Args:
        program: Source text.
        limits: What it may use.

    Returns:
        The outcome.

    Raises:
        StarQuantError: This system cannot limit a process.
    """
    if not sys.platform.startswith("linux"):
        raise StarQuantError(
            "programs can be limited on Linux only", where="humaneval", got=sys.platform
        )
    limits = limits or Limits()
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="starquant-program-") as folder:
        order = {"program": program, "folder": folder, "token": token}
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(CHILD), str(writer)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[writer],
            cwd=folder,
            env={"LANG": "C.UTF-8", "HOME": folder, "TMPDIR": folder},
            start_new_session=True,
        )
        os.close(writer)
        timed_out = False
        try:
            process.communicate(
                json.dumps(order | dataclasses.asdict(limits)).encode(), limits.wall_seconds
            )
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            answer = _read(reader)
    if answer == token and not timed_out:
        return Outcome(True)
    if timed_out or -process.returncode in (signal.SIGXCPU, signal.SIGALRM):
        return Outcome(False, "time")
    return Outcome(False, answer or f"ended with status {process.returncode}")


def _read(descriptor: int) -> str:
    """What stands in a pipe, and closes it."""
    with os.fdopen(descriptor, "rb", buffering=0) as stream:
        return (stream.read(200) or b"").decode(errors="replace")
