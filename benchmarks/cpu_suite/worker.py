"""One variant in a process of its own: it is built, computes one forward when asked, and reports what it took."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from cpu_suite.specs import Place, Shape
from cpu_suite.variants import Variant
from starquant_fx.errors import StarQuantError, cause

ROWS = 128
"""Rows of the logits, spread over all tokens, that are compared with full precision's."""
SMALL = 0.05
"""Seconds; a faster forward is run once more before the timed one, because other processes emptied the caches."""
GRACE = 5
"""Seconds that a process has to end when nothing is asked of it any more."""
STATUS = Path("/proc/self/status")


class WorkerError(Exception):
    """Why a variant gives no figures."""


class _LateError(Exception):
    """There was no answer in time."""


class Worker:
    """The parent's end of a process.

    Args:
        variant: What it runs.
        place: The model.
        patience: Seconds that one request may take.
    """

    def __init__(self, variant: Variant, place: Place, patience: float) -> None:
        self.variant, self.patience = variant, patience
        self._ended = ""
        self._log = place.folder / f"log-{variant.name.replace(' ', '-')}-{place.threads}.txt"
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, variant, place, self._log)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, request: str, *arguments: Any) -> Any:
        """Sends a request and returns the answer.

        Raises:
            WorkerError: The request failed, took too long, or the process ended; it is stopped then.
        """
        if self._ended:
            raise WorkerError(self._ended)
        try:
            self._pipe.send((request, arguments))
            if not self._pipe.poll(self.patience):
                raise _LateError
            done, answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(5)
            said = self._log.read_text(errors="replace").split("\n") if self._log.exists() else []
            last = next((line for line in reversed(said) if line.strip()), "nothing")
            code = self._process.exitcode
            done, answer = False, f"the process ended with exit code {code}; it last said: {last}"
        except _LateError:
            done, answer = False, f"no answer to {request!r} within {self.patience:.0f} s"
        if not done:
            self._ended = answer
            self.stop()
            raise WorkerError(answer)
        return answer

    def interrupt(self) -> None:
        """Ends the process at once, so that whoever waits for its answer goes on."""
        self._process.terminate()

    def stop(self) -> None:
        """Ends the process: it is asked by closing the pipe, and made to if it is busy or does not listen."""
        self._pipe.close()
        for end in (self._process.terminate, self._process.kill):
            self._process.join(0 if self._ended else GRACE)
            if self._process.is_alive():
                end()
        self._process.join()


@contextlib.contextmanager
def interrupting(workers: Sequence[Worker]) -> Iterator[None]:
    """Interrupts workers, also those that are added meanwhile, if the block inside is left by an exception."""
    try:
        yield
    except BaseException:
        for worker in workers:
            worker.interrupt()
        raise


def _serve(pipe: Connection, variant: Variant, place: Place, log: Path) -> None:
    """Answers requests until the parent closes its end; what libraries print goes to a file."""
    count = str(place.threads)  # libraries read these when they are loaded, which is later
    os.environ.update(
        OMP_NUM_THREADS=count, MKL_NUM_THREADS=count, TORCHINDUCTOR_COMPILE_THREADS="1"
    )
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers itself
    with log.open("w") as out:
        for stream in (1, 2):
            os.dup2(out.fileno(), stream)
    served = _Served(variant, place)
    with contextlib.suppress(EOFError, OSError):
        while True:
            request, arguments = pipe.recv()
            try:
                answer = (True, getattr(served, request)(*arguments))
            except Exception as error:  # any peer's failure is a row, not the end of the run
                text = str(error) if isinstance(error, StarQuantError) else cause(error)
                answer = (False, " ".join(text.split())[:400])
            pipe.send(answer)


class _Served:
    """The requests, on the worker's side.

    Args:
        variant: What to run.
        place: The model.
    """

    def __init__(self, variant: Variant, place: Place) -> None:
        self.variant, self.place = variant, place
        self.runner: Any = None

    def prepare(self) -> None:
        """Makes what the variant's process loads; this process ends afterwards, so its memory is not counted."""
        self.variant.load().prepare(self.place, *self.variant.options)

    def ready(self, shape: Shape) -> dict[str, Any]:
        """Builds the variant if it is not yet, and runs it twice on a shape."""
        import torch

        from cpu_suite.weights import token_ids

        torch.set_num_threads(self.place.threads)
        torch.set_grad_enabled(False)
        if self.runner is None:
            self.runner = self.variant.load().build(self.place, *self.variant.options)
        self.ids = token_ids(self.place.spec, shape)
        self.run()
        self.seconds = self.run()
        return {
            "weight_bytes": self.runner.weight_bytes,
            "head": self.runner.head,
            "note": self.runner.note,
        }

    def run(self) -> float:
        """Seconds of one forward."""
        if getattr(self, "seconds", SMALL) < SMALL:
            self.runner.forward(self.ids)
        start = time.perf_counter()
        self.out = self.runner.forward(self.ids)
        self.seconds = time.perf_counter() - start
        return self.seconds

    def finish(self, path: Path) -> dict[str, Any]:
        """Peak memory so far, and some rows of the logits as a file; its path stays None without logits."""
        import numpy as np

        peak = peak_bytes()
        if self.runner.tensor is None:
            return {"peak_bytes": peak, "logits": None}
        logits = self.runner.tensor(self.out).flatten(0, -2).float()
        step = max(1, len(logits) // ROWS)
        np.save(path, logits[::step][:ROWS].numpy())
        return {"peak_bytes": peak, "logits": path}


def peak_bytes() -> int:
    """Most memory that this process has had resident.

    Linux's ``ru_maxrss`` starts at what the parent had when it started the process; ``VmHWM`` does not.
    """
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
