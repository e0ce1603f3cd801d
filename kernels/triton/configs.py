from __future__ import annotations
import dataclasses, torch
from starquant_fx.kernels.triton.launch import architecture


@dataclasses.dataclass(frozen=True)
class Config:
    t: int
    n: int
    warps: int
    stages: int
    split: int
    band: int
    swap: bool


OVERRIDE = None


def choose(device, tokens, rows, features, bits):
    return OVERRIDE or Config(16, 64, 4, 2, 1, 2, architecture(device) >= 90)


def flush(group: int) -> int:
    return max((size for size in range(1, 5) if group % size == 0)) if group else 1
