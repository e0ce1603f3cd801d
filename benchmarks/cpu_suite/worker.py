"""One variant in a process of its own: it is built, computes one forward when asked, and reports what it took.

It computes the logits of all tokens or of the masked ones, as each request says.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from cpu_suite.specs import Place
from cpu_suite.variants import Variant
from starquant_fx.errors import StarQuantError, cause

GRACE = 5
"""Seconds that a process has to end when nothing is asked of it any more."""


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
    # An empty one, or the first call would depend on earlier runs.
    cache = log.with_suffix(".inductor")
    shutil.rmtree(cache, ignore_errors=True)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers itself
    with log.open("w") as out:
        for stream in (1, 2):
            os.dup2(out.fileno(), stream)
    served = variant.served(place)
    with contextlib.suppress(EOFError, OSError):
        while True:
            request, arguments = pipe.recv()
            try:
                answer = (True, getattr(served, request)(*arguments))
            except Exception as error:  # any peer's failure is a row, not the end of the run
                text = str(error) if isinstance(error, StarQuantError) else cause(error)
                answer = (False, " ".join(text.split())[:400])
            pipe.send(answer)
