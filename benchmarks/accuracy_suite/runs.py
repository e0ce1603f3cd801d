"""The runs: compile one recipe, measure it, keep the figures; what was measured once is not measured again."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

import starquant_fx
from accuracy_suite.hardened import HARDENED, load
from starquant_fx.errors import StarQuantError
from starquant_fx.evaluation import agreement, excerpt, gate, mask_plan, segments
from starquant_fx.program import CONSTANTS, Program
from starquant_fx.recipe import Recipe
from starquant_fx.recipes import from_dict

FULL = "full precision"
GROUP = 6
"""Recipes that are measured beside one pass of full precision; a run that is killed loses as many a process."""
SOURCES = ("starquant_fx", "passes", "kernels", "lowering")
SUITE = ("runs.py", "hardened.py")
KINDS = (".py", ".cpp", ".h", ".safetensors", ".txt", ".json")


@dataclasses.dataclass(frozen=True)
class Setting:
    """How every model is measured.

    Attributes:
        split: Shipped excerpt to measure on.
        count: Segments.
        length: Tokens a segment.
        draws: Monte-Carlo draws a segment for the NELBO.
        every: Agreement by mask ratio is measured on every so many of the segments.
        target: Target that the compiled models run on.
    """

    split: str = "test"
    count: int = 96
    length: int = 256
    draws: int = 4
    every: int = 3
    target: str = "auto"


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
            model_hash(self.model),
            self.recipe.to_dict(),
            self.seed,
            dataclasses.asdict(self.setting),
            code,
        ]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def code_hash(root: Path) -> str:
    """Hash of the sources that figures depend on, weights included."""
    digest = hashlib.sha256()
    files = [p for name in SOURCES for p in (root / name).rglob("*")]
    files += [root / "benchmarks" / "accuracy_suite" / name for name in SUITE]
    for path in sorted(p for p in files if p.suffix in KINDS):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


@functools.cache
def model_hash(name: str) -> str:
    """Hash of a model's files if its name is a folder's; of shipped models ``code_hash`` knows."""
    folder, digest = Path(name.removesuffix(HARDENED)), hashlib.sha256()
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix in KINDS:
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def run(jobs: Sequence[Job], fits: Path) -> Iterator[dict[str, Any]]:
    """Compiles and measures recipes of one model under one seed, beside one pass of full precision.

    Args:
        jobs: Of one model, seed and setting.
        fits: Folder where fits are kept; variants of a recipe share what they have in common.

    Yields:
        JSON-ready figures of each job: NELBO of full precision, gap, and divergence under the NELBO's masks, one a
        segment; agreement and divergence by mask ratio; megabytes; extra multiply-adds.
    """
    torch.set_num_threads(1)
    seed, setting = jobs[0].seed, jobs[0].setting
    model, tokenizer = load(jobs[0].model)
    texts = [excerpt("calibration")]
    models: dict[str, Any] = {
        str(i): starquant_fx.compile(
            model,
            job.recipe,
            target=setting.target,
            calibration=texts,
            tokenizer=tokenizer,
            cache=fits,
        )
        for i, job in enumerate(jobs)
    }
    ids = segments(excerpt(setting.split), tokenizer, setting.length, setting.count)
    plan = mask_plan(len(ids), setting.length, seed=seed, draws=setting.draws)
    measured = gate({FULL: model, **models}, ids, plan, FULL)
    some = ids[:: setting.every]
    few = mask_plan(len(some), setting.length, seed=seed)
    agrees = agreement({FULL: model, **models}, some, few, FULL)
    for name, compiled in models.items():
        yield {
            "nelbo_full": measured.bound.tolist(),
            "gap": measured.gaps[name].tolist(),
            "divergence": measured.scores[name].tolist(),
            "top1": agrees[name].top1.mean(1).tolist(),
            "kl": agrees[name].kl.mean(1).tolist(),
            "weights_mb": compiled.report.bytes_after / 1e6,
            "extra_work": extra_work(compiled.program),
        }


def extra_work(program: Program) -> float:
    """Multiply-adds a token of bases, low-rank branches and TAC, as a share of the quantized linears'.

    A Hadamard matrix counts as the two dense Kronecker factors that it is applied by; a branch is taken off the
    input and added to the outputs.
    """
    own = plain = 0
    tensors = {name.removeprefix(f"{CONSTANTS}."): t for name, t in program.tensors().items()}
    for site in program.quantized_sites():
        plain += site.features * sum(site.outputs)
        for name, tensor in tensors.items():
            part = name.removeprefix(f"{site.name}.")
            if part.startswith(("basis_", "rotation_", "tac_matrix")) and tensor.dim() > 1:
                own += site.features * tensor.shape[-1]
            elif part.startswith("directions"):
                own += tensor.shape[-1] * (2 * site.features + sum(site.outputs))
    return own / plain


Sent = tuple[str, dict[str, Any], int, dict[str, Any]]
"""A job as a process can be sent it."""


def _run(sent: Sequence[Sent], fits: Path) -> list[dict[str, Any]]:
    """``run`` with arguments that a process can be sent."""
    jobs = [
        Job(model, from_dict(recipe), seed, Setting(**setting))
        for model, recipe, seed, setting in sent
    ]
    return list(run(jobs, fits))


def grouped(jobs: Iterable[Job], size: int) -> list[list[Job]]:
    """Jobs in groups of one model, seed and setting, at most ``size`` each, in the order of their first jobs."""
    groups: dict[tuple[object, ...], list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.model, job.seed, job.setting), []).append(job)
    return [one[i : i + size] for one in groups.values() for i in range(0, len(one), size)]


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

    Raises:
        StarQuantError: A recipe failed; raised once all others are done and kept.
    """
    known: dict[str, dict[str, Any]] = {}
    if cache.exists():
        kept = cache.read_text()
        if kept and not kept.endswith("\n"):  # a run was killed in the middle of a line
            cache.write_text(kept + "\n")
        for line in kept.splitlines():
            try:
                row = json.loads(line)
                known[row["key"]] = row["figures"]
            except (json.JSONDecodeError, KeyError, TypeError):
                continue
    waiting = []
    for job in jobs:
        if job.key(code) in known:
            yield job, known[job.key(code)]
        else:
            waiting.append(job)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool, cache.open("a") as out:
        futures = {}
        for group in grouped(waiting, GROUP):
            sent = [
                (job.model, job.recipe.to_dict(), job.seed, dataclasses.asdict(job.setting))
                for job in group
            ]
            futures[pool.submit(_run, sent, cache.parent / "fits")] = group
        failure: StarQuantError | None = None
        for future in as_completed(futures):
            try:
                found = future.result()
            except StarQuantError as error:  # what else is under way is measured and kept
                failure = error
                continue
            for job, figures in zip(futures[future], found, strict=True):
                print(json.dumps({"key": job.key(code), "figures": figures}), file=out, flush=True)
                yield job, figures
        if failure is not None:
            raise failure
