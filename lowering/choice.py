"""Which kernels run and why: one wording, for the log and for the report."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from collections import Counter

import torch
from torch import fx

from starquant_fx.kernels import cpu

AUTO = "auto"
"""Name of the fastest target that runs on a device."""
OLDEST = 8
"""Major compute capability of the oldest GPUs that the Triton kernels are made for."""
TRITON = "the Triton kernels run"
RUN = "the CPU kernels run (AVX512-VNNI, AVX512-BF16)"
STAND_IN = "the reference kernels stand in"
TILE = "tile_"
"""Names of the operators of the Triton kernels start so."""
FREE = ("token_state", "ratio_state", "partition", "scatter")
"""Operators that have one implementation, which is no matter of choice."""


def triton_unavailable(device: torch.device) -> str | None:
    """Why the Triton kernels do not run on a device; None if they do."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if device.type == "cpu":
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        return None if interpreted else "a model on the CPU"
    if device.type != "cuda":
        return f"a model on {device}"
    if torch.version.hip is not None:
        return "an AMD GPU"
    major, minor = torch.cuda.get_device_capability(device)
    return None if major >= OLDEST else f"a GPU of compute capability {major}.{minor}"


def choice(asked: str, device: torch.device) -> str:
    """Says which kernels a target means on this machine, and why.

    Args:
        asked: Name of the target, or ``auto``.
        device: Where the program is.
    """
    on_gpu = asked == AUTO and device.type == "cuda"
    if asked == "triton" or (on_gpu and triton_unavailable(device) is None):
        return TRITON if device.type == "cuda" else f"{TRITON}, interpreted on the CPU"
    if on_gpu:
        return f"{STAND_IN}: {triton_unavailable(device)}"
    if asked not in (AUTO, "cpu"):
        return "the reference kernels run"
    if device.type != "cpu":
        return f"the reference kernels run: there are no others for {device.type}"
    if (reason := cpu.unavailable()) is not None:
        return f"{STAND_IN}: {reason}"
    return RUN


def log_choice(asked: str, device: torch.device) -> None:
    """Logs what ``choice`` says, once a process: a warning where what was asked for is not there."""
    _log(choice(asked, device))


@functools.cache
def _log(text: str) -> None:
    level = logging.WARNING if text.startswith(STAND_IN) else logging.INFO
    logging.getLogger("starquant_fx").log(level, "%s", text)


def kernels_in_use(asked: str, device: torch.device, graph: fx.Graph) -> str:
    """What ``choice`` says, and how often a lowered graph calls which operator.

    Args:
        asked: As there.
        device: As there.
        graph: The lowered graph.

    Returns:
        For example ``the CPU kernels run (...): 4 panel_linear, 4 site_codes; by the reference: 1 transform_quantize``.
    """
    own, others = Counter[str](), Counter[str]()
    for node in graph.nodes:
        space, _, name = str(node.target).removesuffix(".default").rpartition(".")
        if node.op == "call_function" and space == "starquant" and name not in FREE:
            (own if name in cpu.OPERATORS or name.startswith(TILE) else others)[name] += 1
    text = choice(asked, device)
    parts = [f": {_listed(own)}" if own else ""]
    if others:
        parts.append(
            f"{'; by the reference' if text.startswith((RUN, TRITON)) else ''}: {_listed(others)}"
        )
    return text + "".join(parts)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
