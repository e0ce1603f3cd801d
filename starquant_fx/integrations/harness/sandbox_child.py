"""The other side of ``sandbox.run_program``: limits itself, then runs the program. Standard library only."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

# Refused whatever the arguments: processes, connections, foreign code, changes to files and to other processes.
REFUSED = (
    *("ctypes.", "fcntl.", "os.chmod", "os.chown", "os.exec", "os.fork", "os.kill", "os.link"),
    *("os.mkdir", "os.posix_spawn", "os.remove", "os.rename", "os.rmdir", "os.spawn", "os.symlink"),
    *("os.system", "os.truncate", "os.utime", "pty.", "resource.setrlimit", "shutil.", "signal."),
    *("socket.", "subprocess.", "syslog.", "_posixsubprocess"),
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
READABLE = ("/dev/null", "/dev/urandom", "/usr/share/zoneinfo")


def limit(order: dict[str, Any]) -> None:
    """Takes away what the order does not grant; nothing of it can be taken back."""
    cpu, memory, size = order["cpu_seconds"], order["memory_bytes"], order["file_bytes"]
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, size),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 32),
    ):
        resource.setrlimit(what, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))  # a signal that says why, then the end
    # Should the parent die, this process must not stay.
    signal.alarm(math.ceil(order["wall_seconds"]) + 1)


def guard(folder: str) -> None:
    """Refuses, by an audit hook, what the operating system's limits leave open."""
    roots = {os.path.realpath(path) for path in (*sys.path, str(Path(os.__file__).parent)) if path}
    readable = (*sorted(roots), os.path.realpath(folder), *READABLE)

    def inside(path: Any, places: tuple[str, ...]) -> bool:
        if isinstance(path, int):
            return True
        real = os.path.realpath(os.fsdecode(path))
        return any(real == place or real.startswith(place + os.sep) for place in places)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        refused = event.startswith(REFUSED)
        if event == "open":
            path, mode, flags = arguments
            writes = bool((flags or 0) & WRITING) or bool(set(mode or "") & set("wax+"))
            refused = not inside(path, (os.path.realpath(folder),) if writes else readable)
        elif event in ("os.listdir", "os.scandir"):
            refused = arguments[0] is not None and not inside(arguments[0], readable)
        if refused:
            raise PermissionError(f"{event} is refused here")

    sys.modules["_posixsubprocess"] = None  # type: ignore[assignment]
    sys.addaudithook(hook)


def main() -> None:
    """Runs the program of the order on standard input and reports to the pipe that the argument names."""
    report = int(sys.argv.pop())
    order = json.loads(sys.stdin.buffer.read())
    token = order.pop("token")
    program, folder = order.pop("program"), order.pop("folder")
    limit(order)
    guard(folder)
    try:
        exec(compile(program, "program", "exec"), {"__name__": "program"})
        answer = token
    except BaseException as error:
        answer = type(error).__name__
    os.write(report, answer.encode()[:100])
    os._exit(0)


if __name__ == "__main__":
    main()
