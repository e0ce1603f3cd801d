"""What is made before the measurement, each in a process that ends with it: weights, exported models, artifacts."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from cpu_suite.memory import LIBRARIES, free_bytes
from cpu_suite.sources import code_hash
from cpu_suite.specs import Place
from cpu_suite.variants import Variant
from cpu_suite.worker import Worker, WorkerError, interrupting
from starquant_fx.errors import StarQuantError

COPIES = 5
"""Copies of the float32 model that a preparation may hold."""


def prepare(
    place: Place, variants: Sequence[Variant], patience: float, say: Callable[[str], None]
) -> dict[str, str]:
    """Writes the weights, then what the variants load; what is made from one export is made one after another.

    Args:
        place: The model, and a folder; what an earlier call of the same code made in it is not made again.
        variants: What will run.
        patience: Seconds that one preparation may take.
        say: Told what is being done.

    Returns:
        Reasons of the variants that cannot run, by name.

    Raises:
        StarQuantError: There are no weights.
    """
    name = place.spec.name
    running: list[Worker] = []
    stopped: list[bool] = []
    say(f"{name}: writing the weights")
    reason = _made(Variant("weights", "", "weights", prepared=True), place, patience, running)
    if reason:
        raise StarQuantError("the model's weights cannot be written", where=name, got=reason)
    failed: dict[str, str] = {}
    chains: dict[str, list[Variant]] = {}
    for variant in variants:
        missing = variant.missing()
        if missing is not None:
            failed[variant.name] = f"{missing} is not installed"
        elif variant.prepared:
            chains.setdefault(variant.module if variant.exported else variant.name, []).append(
                variant
            )
    jobs = _jobs(place, len(chains))
    share = max(1, (os.cpu_count() or 1) // jobs)
    inside = dataclasses.replace(place, threads=share)

    def make(several: list[Variant]) -> None:
        for variant in several:
            if stopped:
                return
            say(f"{name}: preparing {variant.name}")
            reason = _made(variant, inside, patience, running)
            if reason:
                failed[variant.name] = f"preparation failed: {reason}"

    with ThreadPoolExecutor(jobs) as pool, interrupting(running):
        try:
            list(pool.map(make, chains.values()))
        finally:
            stopped.append(True)
    return failed


def _jobs(place: Place, wanted: int) -> int:
    """Preparations at a time that fit into processors and memory."""
    size = LIBRARIES + COPIES * place.spec.float_bytes
    return max(1, min(wanted, os.cpu_count() or 1, int(free_bytes() // size)))


def _made(variant: Variant, place: Place, patience: float, running: list[Worker]) -> str:
    """Runs one preparation unless this code did, and adds its worker to a list; returns the reason if it failed."""
    apart = "-masked" if place.masked and variant.exported else ""
    done = place.folder / f"done-{variant.name.replace(' ', '-')}{apart}"
    if done.exists() and done.read_text() == code_hash(variant.package):
        return ""
    worker = Worker(variant, place, patience)
    running.append(worker)
    try:
        worker.ask("prepare")
    except WorkerError as error:
        return str(error)
    finally:
        worker.stop()
    done.write_text(code_hash(variant.package))
    return ""
