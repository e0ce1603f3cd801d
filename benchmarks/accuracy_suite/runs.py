"""The runs: compile one recipe, measure it, keep the figures; what was measured once is not measured again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

import starquant_fx
from accuracy_suite.hardened import load
from starquant_fx.evaluation import compare, excerpt, mask_plan, segments
from starquant_fx.recipe import Recipe
from starquant_fx.recipes import from_dict

FULL = "full precision"
SOURCES = ("starquant_fx", "passes", "kernels", "lowering", "benchmarks/accuracy_suite/runs.py")


@dataclasses.dataclass(frozen=True)
class Setting:
    """How every model is measured.

    Attributes:
        split: Shipped excerpt to measure on.
        count: Segments.
        length: Tokens a segment.
        draws: Monte-Carlo draws a segment for the NELBO.
    """

    split: str = "test"
    count: int = 48
    length: int = 256
    draws: int = 4


@dataclasses.dataclass(frozen=True)
class Job:
    """One model compiled with one recipe under one seed.

    Attributes:
        model: Name of the model, see ``hardened.load``.
        recipe: Seeded recipe.
        seed: Seed of calibration, starts, fits and masks.
        setting: How it is measured.
    """

    model: str
    recipe: Recipe
    seed: int
    setting: Setting

    def key(self, code: str) -> str:
        """Identifies the job and the code that runs it."""
        values = [
            self.model,
            self.recipe.to_dict(),
            self.seed,
            dataclasses.asdict(self.setting),
            code,
        ]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def code_hash(root: Path) -> str:
    """Hash of the sources that figures depend on, weights included."""
    digest = hashlib.sha256()
    files = [p for name in SOURCES for p in (root / name).rglob("*")] + [root / SOURCES[-1]]
    for path in sorted(p for p in files if p.suffix in (".py", ".safetensors", ".txt")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def run(job: Job) -> dict[str, Any]:
    """Compiles and measures.

    Returns:
        JSON-ready figures: NELBO of each segment for full precision and quantized model, agreement by mask ratio,
        seconds, megabytes, multiply-adds of the transforms a token.
    """
    torch.set_num_threads(1)
    setting = job.setting
    model, tokenizer = load(job.model)
    ids = segments(excerpt(setting.split), tokenizer, setting.length, setting.count)
    plan = mask_plan(len(ids), setting.length, seed=job.seed, draws=setting.draws)
    start = time.perf_counter()
    compiled = starquant_fx.compile(
        model, job.recipe, calibration=[excerpt("calibration")], tokenizer=tokenizer
    )
    seconds = time.perf_counter() - start
    comparison = compare({FULL: model, "quantized": compiled}, ids, plan, FULL)
    agreement = comparison.measurements["quantized"].agreement
    return {
        "nelbo_full": comparison.measurements[FULL].nelbo.tolist(),
        "nelbo": comparison.measurements["quantized"].nelbo.tolist(),
        "top1": agreement.top1.mean(1).tolist(),
        "kl": agreement.kl.mean(1).tolist(),
        "compile_seconds": seconds,
        "weights_mb": compiled.report.bytes_after / 1e6,
        "site_error": [row.error for row in compiled.report.sites],
    }


def _run(values: tuple[str, dict[str, Any], int, dict[str, Any]]) -> dict[str, Any]:
    """``run`` with arguments that a process can be sent."""
    model, recipe, seed, setting = values
    return run(Job(model, from_dict(recipe), seed, Setting(**setting)))


def run_all(
    jobs: Iterable[Job], cache: Path, code: str, workers: int
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Runs jobs, several at a time, and keeps every result at once in a file of lines.

    Args:
        jobs: What to run.
        cache: JSON lines; made if missing. Lines of other code or settings stay and are not used.
        code: From ``code_hash``.
        workers: Processes.

    Yields:
        Every job with its figures, as they are done.
    """
    known: dict[str, dict[str, Any]] = {}
    if cache.exists():
        for line in cache.read_text().splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # the last line of a run that was killed
            known[row["key"]] = row["figures"]
    waiting: dict[str, Job] = {}
    for job in jobs:
        key = job.key(code)
        if key in known:
            yield job, known[key]
        else:
            waiting[key] = job
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool, cache.open("a") as out:
        futures = {
            pool.submit(
                _run, (job.model, job.recipe.to_dict(), job.seed, dataclasses.asdict(job.setting))
            ): (key, job)
            for key, job in waiting.items()
        }
        for future in as_completed(futures):
            key, job = futures[future]
            figures = future.result()
            print(json.dumps({"key": key, "figures": figures}), file=out, flush=True)
            yield job, figures
