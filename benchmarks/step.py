#!/usr/bin/env python3
"""Where a denoising step of a random model goes: network, head, sampler and rest, and what comes before the first.

LLaDA's sampler at temperature 0, one token revealed a step, about half of the tokens masked at random places. Models
are those of cpu.py: with the ``--keep`` of one of its runs they are not prepared again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import starquant_fx
from cpu_suite.prepare import prepare
from cpu_suite.specs import Place, Shape, model_folder, models
from cpu_suite.variants import HEAD8, VARIANTS
from cpu_suite.weights import load, token_ids
from starquant_fx.compiled import CompiledModel
from starquant_fx.errors import StarQuantError, exit_code
from starquant_fx.evaluation.step_time import StepTimes, timed_generation
from starquant_fx.kernels import cpu

MEASURED = ("star-w4a4", HEAD8)
PATIENCE = 900
"""Seconds that a preparation may take."""


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    top = argparse.ArgumentParser(description=__doc__)
    top.add_argument("--model", default="12x1024", help="of cpu.py")
    top.add_argument("--length", type=int, default=512, help="tokens of the sequence")
    top.add_argument("--steps", type=int, default=9, help="of a round; the first is not counted")
    top.add_argument("--rounds", type=int, default=3, help="the median one is shown")
    top.add_argument("--threads", type=int, default=1)
    top.add_argument("--keep", type=Path, help="folder of weights and artifacts, as of cpu.py")
    return top


def generation(model: CompiledModel, ids: Tensor, steps: int) -> StepTimes:
    """Times one generation; [MASK] inside the prompt stays a candidate, so that the mask ratio hardly changes."""
    sizes = {"steps": steps, "gen_length": steps, "block_length": steps}
    _, times = timed_generation(model, ids[:, :-steps], progress=False, temperature=0.0, **sizes)
    return times


def run(arguments: argparse.Namespace) -> None:
    """Prints a table for each variant; rounds take turns, so that noise hits all alike."""
    torch.set_num_threads(arguments.threads)
    (spec,) = models(arguments.model)
    start = time.perf_counter()
    missing = cpu.unavailable()
    kernels = missing or f"CPU kernels at hand after {time.perf_counter() - start:.2f} s"
    ids = token_ids(spec, Shape(1, arguments.length))
    with model_folder(arguments.keep, spec.name) as folder:
        place = Place(folder, spec, arguments.threads)
        failed = prepare(place, [VARIANTS[name] for name in MEASURED], PATIENCE, _say)
        if failed:
            raise StarQuantError("a model cannot be prepared", where=spec.name, got=str(failed))
        bound, compiled = dict[str, float](), dict[str, CompiledModel]()
        for name in MEASURED:
            model, start = load(place, "bf16"), time.perf_counter()
            artifact = folder / f"{VARIANTS[name].options[0]}.safetensors"
            compiled[name] = starquant_fx.load_artifact(model, artifact)
            bound[name] = time.perf_counter() - start
        rounds = [
            {name: generation(model, ids, arguments.steps) for name, model in compiled.items()}
            for _ in range(arguments.rounds)
        ]
    title = f"{spec.name}, 1x{arguments.length} tokens, {arguments.threads} thread(s)"
    for name in MEASURED:
        times = sorted((one[name] for one in rounds), key=lambda t: t.total)[len(rounds) // 2]
        print(f"### {name}: {title}\n\n{times.sheet().markdown()}")
        first = f"the very first step took {rounds[0][name].first:.2f} s"
        print(f"Before: {kernels}; the artifact was bound in {bound[name]:.2f} s; {first}.\n")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    arguments = parser().parse_args(argv)
    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
