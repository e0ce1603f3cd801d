"""The NELBO of a variant on held-out text; all variants meet the same masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import starquant_fx
from cpu_suite.specs import Place
from cpu_suite.weights import load
from onnx_suite.served import open_session
from onnx_suite.variants import COMPILED, Job, Session
from starquant_fx.evaluation import Interval, excerpt, mask_plan, mean_interval, nelbo, segments
from starquant_fx.files import write_atomically

SEGMENTS, LENGTH, DRAWS = 48, 256, 2
REFERENCE = "full precision"
TORCH = {REFERENCE: "fp32", COMPILED: "bf16"}
"""Variants that PyTorch runs, here as they are, and their float type."""


class Sessions:
    """An exported model under the arguments of one in PyTorch.

    Args:
        session: Of onnxruntime.
        config: The model's.
    """

    def __init__(self, session: Any, config: Any) -> None:
        self._session, self.config = session, config

    def __call__(self, ids: Tensor) -> Tensor:
        """Logits [B, L, vocab] of ids [B, L]."""
        feeds = {"input_ids": ids.numpy(), "rows": np.arange(ids.numel())}
        (logits,) = self._session.run(None, feeds)
        return torch.from_numpy(logits).unflatten(0, ids.shape)


def prepare(place: Place, name: str, export: str) -> None:
    """Writes a variant's NELBO of every segment.

    Args:
        place: A shipped model.
        name: The variant, or ``REFERENCE``.
        export: Its folder; empty for what PyTorch runs.
    """
    torch.set_num_threads(place.threads)
    _, tokenizer = starquant_fx.from_pretrained(place.spec.name)
    ids = segments(excerpt("test"), tokenizer, LENGTH, SEGMENTS)
    plan = mask_plan(len(ids), LENGTH, draws=DRAWS)
    denoiser: Any = load(place, TORCH.get(name, "fp32"))
    if export:
        denoiser = Sessions(open_session(place, export), denoiser.config)
    found = nelbo(denoiser, ids, plan, name=name)
    write_atomically(_file(place, name), json.dumps(found.tolist()) + "\n")


def jobs(variants: list[Session]) -> list[Job]:
    """The preparations that measure the variants, full precision and PyTorch's bf16."""
    wanted = [*((name, "") for name in TORCH), *((v.name, v.options[0]) for v in variants)]
    return [Job(job_name(n), "", "gaps", (n, export), prepared=True) for n, export in wanted]


def job_name(variant: str) -> str:
    """Name of a variant's preparation."""
    return f"NELBO of {variant}"


def gap(place: Place, name: str) -> Interval | None:
    """NELBO of a variant less that of full precision, paired by segment; None if it was not measured."""
    own, full = (_file(place, n) for n in (name, REFERENCE))
    if not own.exists() or not full.exists():
        return None
    values, reference = (torch.tensor(json.loads(f.read_text())) for f in (own, full))
    return mean_interval(values - reference)


def _file(place: Place, name: str) -> Path:
    return place.folder / f"nelbo-{name.replace(' ', '-')}.json"
