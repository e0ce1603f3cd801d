"""Exports LLaDA-8B or Dream-7B at full size, with random weights: seconds, memory and size of the files.

python benchmarks/onnx_large.py --recipe star-w4a4 --flavour integer --folder /somewhere/with/room

The codes of the linears are drawn, the weights they could stand for never are. Nothing is compared with the reference
target, which would take all weights in float32; the ONNX checker reads the file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx
import torch

import starquant_fx
from gpu_suite.models import empty_model, fill
from gpu_suite.random_programs import Captured, random_compiled
from gpu_suite.specs import MODELS, GpuModel
from starquant_fx.compiled import CompiledModel
from starquant_fx.errors import exit_code
from starquant_fx.files import check_destination, write_atomically

GIGABYTE = 1e9
TABLES = ("wte", "transformer.ff_out", "embed_tokens", "lm_head", "norm", "ln_f", "bias")
"""What stands in the names of weights that no recipe quantizes."""


def peak() -> float:
    """Gigabytes that the process held at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIGABYTE


def compiled(spec: GpuModel, recipe: str) -> CompiledModel:
    """A compiled model of random codes; memory of weights that are quantized is never touched."""
    model = empty_model(spec, torch.device("cpu"))
    tables = {n: p for n, p in model.named_parameters() if any(part in n for part in TABLES)}
    fill(tables, spec)
    return random_compiled(Captured(model, spec.vocab - 1), model, recipe, "reference")


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Exports once; returns what was measured."""
    spec = MODELS[given.model]
    spec = dataclasses.replace(spec, layers=given.layers or spec.layers)
    model = compiled(spec, given.recipe)
    held, before = sum(t.nbytes for t in model.tensors().values()) / GIGABYTE, peak()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        target = Path(folder) / "model"
        report = starquant_fx.export_onnx(
            model, target, flavour=given.flavour, head=given.head, verify=False
        )
        after, began = peak(), time.perf_counter()
        onnx.checker.check_model(target / "model.onnx")
        checked = time.perf_counter() - began
    return {
        "model": given.model,
        "layers": spec.layers,
        "recipe": given.recipe,
        "flavour": given.flavour,
        "head": given.head,
        "tensors_gb": round(held, 2),
        "files_gb": round(sum(report.bytes.values()) / GIGABYTE, 2),
        "nodes": report.nodes,
        "export_seconds": round(report.seconds, 1),
        "check_seconds": round(checked, 1),
        "peak_before_gb": round(before, 2),
        "peak_gb": round(after, 2),
    }


def main() -> int:
    """Reads the command line, exports, prints and writes what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default=next(iter(MODELS)), choices=list(MODELS))
    parser.add_argument("--recipe", default="star-w4a4")
    parser.add_argument("--flavour", default="integer", choices=["qdq", "integer", "nbits"])
    parser.add_argument("--head", default="tokens", choices=["logits", "row-logits", "tokens"])
    parser.add_argument("--layers", type=int, help="fewer blocks, to try it")
    parser.add_argument("--folder", type=Path, help="where the files are written, and removed")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()

    def job() -> None:
        if given.json is not None:
            check_destination(given.json, ".json")
        found = measure(given)
        for name, value in found.items():
            print(f"{name:16s} {value}")
        if given.json is not None:
            write_atomically(given.json, json.dumps(found, indent=1))

    return exit_code(job)


if __name__ == "__main__":
    sys.exit(main())
