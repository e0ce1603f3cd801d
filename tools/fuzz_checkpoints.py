#!/usr/bin/env python3
"""Loads thousands of damaged and forged folders, and reports what is neither refused nor loaded right.

Each case is drawn from the seed and its number, and is loaded in a worker process under limits of time and memory.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from checkpoint_fuzz import bases
from checkpoint_fuzz.cases import make
from checkpoint_fuzz.limits import Limits
from checkpoint_fuzz.subjects import Artifact, Model, Packed
from checkpoint_fuzz.verdicts import Verdict
from checkpoint_fuzz.workers import Worker, judged_by_workers, work

SUBJECTS: dict[str, tuple[Callable[[Path], Path], type[Packed | Model | Artifact]]] = {
    "rtn": (lambda folder: bases.packed(folder, "rtn-w4a4"), Packed),
    "star": (lambda folder: bases.packed(folder, "star-w4a4"), Packed),
    "model": (bases.full, Model),
    "artifact": (lambda folder: bases.artifact(folder, "rtn-w4a4"), Artifact),
}
"""What can be changed and loaded: how the sound folder is written, and how a changed one is loaded."""


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    top = argparse.ArgumentParser(description=__doc__)
    top.add_argument("subject", choices=SUBJECTS, help="what is changed and loaded")
    top.add_argument("--cases", type=int, default=10_000)
    top.add_argument("--first", type=int, default=0, help="number of the first case")
    top.add_argument("--seed", type=int, default=0)
    top.add_argument(
        "--seconds", type=float, default=Limits.seconds, help="of the processor for a case, at most"
    )
    top.add_argument(
        "--mebibytes", type=int, default=Limits.memory >> 20, help="of a case, at most"
    )
    top.add_argument("--report", type=Path, help="a JSON file for what was found")
    top.add_argument("--keep", type=Path, help="write the folder of the first case here and stop")
    top.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 1 if there are defects."""
    asked = parser().parse_args(arguments)
    limits = Limits(asked.seconds, asked.mebibytes << 20)
    write, subject = SUBJECTS[asked.subject]
    if asked.worker:
        sound = asked.worker / "sound"
        work(lambda: subject(sound), asked.seed, sound, asked.worker, limits)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        sound = write(place / "sound")
        if asked.keep:
            case = make(asked.seed, asked.first, sound, place / "case" / "sound", subject.hashed)
            print(*case.steps, f"sealed {case.sealed}, check {case.check}", sep="\n")
            shutil.copytree(place / "case" / "sound", asked.keep, symlinks=True)
            return 0
        command = [sys.executable, __file__, asked.subject, "--worker", str(place)]
        command += ["--seed", str(asked.seed), "--seconds", str(asked.seconds)]
        command += ["--mebibytes", str(asked.mebibytes)]
        with (place / "log").open("w") as log:
            return _run(asked, lambda: Worker(command, log, limits))


def _run(asked: argparse.Namespace, start: Callable[[], Worker]) -> int:
    outcomes: Counter[str] = Counter()
    defects: dict[str, list[dict[str, Any]]] = {}
    places: Counter[str] = Counter()
    largest, began = 0, time.monotonic()
    numbers = range(asked.first, asked.first + asked.cases)
    for done, (number, case, verdict) in enumerate(judged_by_workers(start, numbers), 1):
        outcomes[verdict.outcome] += 1
        places[f"{verdict.outcome} {verdict.place}"] += 1
        largest = max(largest, verdict.memory)
        if not verdict.fine:
            _note(defects, number, case, verdict)
        if done % 500 == 0 or done == asked.cases:
            took = time.monotonic() - began
            print(f"{done} cases in {took:.0f} s: {dict(outcomes)}", flush=True)
        if asked.report and (done % 100 == 0 or done == asked.cases):
            told = {
                "subject": asked.subject,
                "seed": asked.seed,
                "first": asked.first,
                "cases": done,
                "seconds": round(time.monotonic() - began),
                "outcomes": dict(outcomes),
                "most_memory": largest,
                "places": dict(places.most_common()),
                "defects": defects,
            }
            asked.report.write_text(json.dumps(told, indent=1) + "\n")
    print(f"most memory of a case: {largest / 2**20:.0f} MiB")
    for key, found in defects.items():
        print(f"{len(found)} x {key}; case {found[0]['number']}: {found[0]['detail']}")
    print("no defects" if not defects else f"{len(defects)} kinds of defects")
    return 1 if defects else 0


def _note(
    defects: dict[str, list[dict[str, Any]]], number: int, case: dict[str, Any], verdict: Verdict
) -> None:
    key = f"{verdict.outcome} {verdict.place} {verdict.detail[:40]}"
    entry = {"number": number, "steps": case.get("steps"), "sealed": case.get("sealed")}
    defects.setdefault(key, []).append({**entry, "detail": verdict.detail})
    if len(defects[key]) == 1:
        print(f"case {number}: {key}: {verdict.detail}\n  {case.get('steps')}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
