"""Cases in a process of their own, which is started again when one of them ends it."""

from __future__ import annotations

import dataclasses
import faulthandler
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from checkpoint_fuzz.cases import Case, make
from checkpoint_fuzz.limits import WAITING, Limits, bound_addresses
from checkpoint_fuzz.subjects import Subject
from checkpoint_fuzz.verdicts import Verdict, judge

STARTING = 120.0
"""Seconds that a worker may take for its imports."""
LONGEST = 1000
"""Characters of the traceback, in the verdict of a worker that died."""


def work(
    subject: Callable[[], Subject], seed: int, sound: Path, place: Path, limits: Limits
) -> None:
    """Judges the cases whose numbers come in, a line each, and writes a line of JSON for each.

    Args:
        subject: Makes what is loaded.
        seed: Of the cases.
        sound: The folder that they change.
        place: Where their folders are made.
        limits: Of each.
    """
    faulthandler.enable()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no result
    one = subject()
    bound_addresses()
    print(json.dumps("ready"), file=out, flush=True)
    for line in sys.stdin:
        case, verdict = run(one, seed, int(line), sound, place, limits)
        print(
            json.dumps([dataclasses.asdict(case), dataclasses.asdict(verdict)]),
            file=out,
            flush=True,
        )


def run(
    subject: Subject, seed: int, number: int, sound: Path, place: Path, limits: Limits
) -> tuple[Case, Verdict]:
    """Makes and judges one case in this process."""
    folder = place / "case" / sound.name
    case = make(seed, number, sound, folder, subject.hashed)
    forged = case.forged or not subject.hashed
    size = sum(file.lstat().st_size for file in folder.iterdir())
    return case, judge(lambda: subject.attempt(folder, case), forged, limits, size)


class Worker:
    """A process that judges cases.

    Args:
        command: What starts it.
        log: Where its standard error goes.
        limits: Of each case; the process is killed at twice the time in all.
    """

    def __init__(self, command: list[str], log: IO[Any], limits: Limits) -> None:
        self._limits, self._log = limits, log
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1
        )
        if self._line(STARTING)[0] != "ready":
            raise RuntimeError(f"the worker did not start; see {log.name}")

    def judged(self, number: int) -> tuple[dict[str, Any], Verdict] | Verdict:
        """A case and its verdict, or the verdict alone if the process died of it."""
        assert self._process.stdin is not None
        print(number, file=self._process.stdin, flush=True)
        answer, hung = self._line(2 * WAITING * self._limits.seconds)
        if answer is not None:
            return answer[0], Verdict(**answer[1])
        if hung:
            self._process.send_signal(signal.SIGABRT)  # faulthandler then says where it was
        code = self._process.wait()
        name = signal.Signals(-code).name if code < 0 else str(code)
        _, _, last = Path(self._log.name).read_text().rpartition("(most recent call")
        said = "; ".join(line.strip() for line in last.splitlines()[1:] if "  " in line)
        return Verdict("died", f"{'hung' if hung else f'ended with {name}'}: {said[:LONGEST]}")

    def _line(self, seconds: float) -> tuple[Any, bool]:
        """What the process says next, None if it ends or takes too long; and whether it took too long."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        line = self._process.stdout.readline() if ready else ""
        return (json.loads(line) if line else None), not ready

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


def judged_by_workers(
    start: Callable[[], Worker], numbers: Iterable[int]
) -> Iterator[tuple[int, dict[str, Any], Verdict]]:
    """Judges cases, with a new worker after each that ended one."""
    worker = start()
    for number in numbers:
        answer = worker.judged(number)
        if isinstance(answer, Verdict):
            yield number, {}, answer
            worker = start()
        else:
            yield number, *answer
    worker.close()
