"""Every operator: schema, fake implementation and reference agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from starquant_fx import operators
from starquant_fx.kernels import reference

X = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))
W = torch.randn(7, 12, generator=torch.Generator().manual_seed(1))
STATE = torch.tensor([[0, 1, 1, 0, 0], [1, 1, 0, 1, 0]])
TABLE = torch.randn(2, 12, generator=torch.Generator().manual_seed(2))
CODES, SCALE, ZERO = reference.quantize_activation(X, 4, False, None)
LEVELS, STEP = reference.quantize_weight(W, 4, None)
PACKED = reference.pack(LEVELS, 4)
SUMS = LEVELS.sum(-1, dtype=torch.int32)
_, STATES, ORDER = reference.partition(X, STATE)
KRONECKER = [torch.eye(4), torch.eye(3)]
BASIS, GATES = (KRONECKER, "kronecker"), (8, [10, 12, 8, 10])
TAC = (torch.ones(3, 4, 4), torch.ones(12))
F32, BF16 = torch.float32, torch.bfloat16

CASES: list[tuple[str, tuple[Any, ...]]] = [
    ("token_state", (STATE, 1)),
    ("token_state", (STATE.int(), 1)),
    ("ratio_state", (STATE, None, [0.5])),
    ("ratio_state", (STATE, torch.ones(2, 1, 5, 5).bool(), [0.3, 0.5])),
    ("partition", (X, STATE)),
    ("scatter", (X.flatten(0, 1), ORDER, STATE)),
    ("scatter", (X.flatten(0, 1), ORDER, STATES)),
    ("center", (X, STATE, TABLE)),
    ("rotate", (X, KRONECKER, "kronecker")),
    ("rotate", (X.bfloat16(), [torch.eye(12)], "dense")),
    ("rotate", (X, [torch.ones(3, 4, 4)], "block")),
    ("rotate", (X, [torch.ones(12), *KRONECKER], "hadamard")),
    ("gate", (X, STATE, 8, [10, 12, 8, 10])),
    ("compensate", (X, torch.ones(3, 4, 4), torch.ones(12))),
    ("compensate_by_state", (X, STATE, [0, 1], torch.ones(2, 3, 4, 4), torch.ones(2, 12))),
    ("split_low_rank", (X, STATE, torch.ones(2, 12, 3))),
    ("add_low_rank", (X, STATE, X[..., :3].contiguous(), torch.ones(2, 3, 12))),
    ("quantize_activation", (X, 4, False, None)),
    ("quantize_activation", (X.bfloat16(), 8, True, torch.ones(2))),
    ("dequantize_activation", (CODES, SCALE, ZERO, BF16)),
    ("quantize_weight", (W, 4, None)),
    ("quantize_weight", (W, 8, torch.ones(7))),
    ("pack", (LEVELS, 4)),
    ("pack", (LEVELS[:, :11].contiguous(), 3)),
    ("pack", (LEVELS, 8)),
    ("dequantize_weight", (PACKED, STEP, 4, 12, F32)),
    ("dequantize_weight", (reference.pack(LEVELS, 8), STEP, 8, 12, BF16)),
    ("add_state_bias", (X, STATE, TABLE)),
    ("quantized_linear", (CODES, SCALE, ZERO, PACKED, STEP, SUMS, 4, None, None, None, F32)),
    (
        "quantized_linear",
        (CODES, SCALE, ZERO, PACKED, STEP, SUMS, 4, STEP, STATE, TABLE[:, :7].contiguous(), BF16),
    ),
    ("transform_quantize", (X, None, None, [], "dense", 0, [], None, None, 4, False, None)),
    ("transform_quantize", (X, STATE, TABLE, *BASIS, *GATES, *TAC, 4, True, torch.ones(2))),
    ("greedy", (W, False)),
    ("greedy", (W.bfloat16(), True)),
]


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=[name for name, _ in CASES])
def test_schema_fake_and_reference_agree(name: str, arguments: tuple[Any, ...]) -> None:
    operator = operators.op(name)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(operator, arguments, test_utils=checks)
    got, expected = operator(*arguments), getattr(reference, name)(*arguments)
    pairs = zip(got, expected, strict=True) if isinstance(got, tuple) else [(got, expected)]
    assert all(torch.equal(a, b) for a, b in pairs)


def test_every_registered_operator_is_checked() -> None:
    assert set(operators.names()) == {name for name, _ in CASES}
