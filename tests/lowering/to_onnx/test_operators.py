"""Every operator as ONNX nodes, in onnxruntime and by ONNX's definition, against its reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from starquant_fx.kernels import reference
from starquant_fx.lowering.onnx.lower import PLAIN
from starquant_fx.operators import names, op
from tests.lowering.to_onnx.small import FEATURES, STATES, Calls, exported, run, run_by_definition

SOURCE = torch.Generator().manual_seed(1)
BOUNDS = [20, 22, 22, 24]


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=SOURCE)


def basis(*sizes: int) -> Tensor:
    return torch.linalg.qr(normal(*sizes))[0]


X = normal(3, 5, FEATURES)
STATE = torch.randint(0, STATES, (3, 5), generator=SOURCE)
IDS = torch.tensor([[7, 1, 7, 7, 0], [7, 7, 7, 7, 7], [1, 2, 3, 4, 5]])
KEEP = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
SEEN = (KEEP[:, None, None, :] == 1).expand(3, 1, 5, 5).contiguous()
KRONECKER = [basis(6, 6), basis(4, 4)]
BLOCKS = torch.stack([basis(8, 8) for _ in range(3)])
TAC = (torch.eye(4) + 0.1 * normal(6, 4, 4), normal(FEATURES))
BY_STATE = (torch.eye(4) + 0.1 * normal(2, 6, 4, 4), normal(2, FEATURES))
DIRECTIONS = torch.stack([basis(FEATURES, 3) for _ in range(STATES)])
IMAGE = normal(STATES, 3, 10)


def listed(name: str, *tail: Any) -> Callable[..., Any]:
    """Calls an operator with tensors that it takes as a list."""

    def call(x: Tensor, **factors: Tensor) -> Any:
        return op(name)(x, list(factors.values()), *tail)

    return call


def rotation(structure: str, *factors: Tensor) -> tuple[Calls, dict[str, Tensor]]:
    named = {f"basis_{i}": factor for i, factor in enumerate(factors)}
    return Calls(listed("rotate", structure), **named), {"x": X}


def both(x: Tensor, state: Tensor, directions: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    rest, kept = op("split_low_rank")(x, state, directions)
    return rest, op("add_low_rank")(x[..., :10], state, kept, image)


def centred(x: Tensor, state: Tensor, **held: Tensor) -> tuple[Tensor, Tensor]:
    """Centring and branch, which are one form."""
    means, directions, image = held.values()
    rest, kept = op("split_low_rank")(op("center")(x, state, means), state, directions)
    return rest, op("add_low_rank")(x[..., :10], state, kept, image)


def of_logits(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(op("greedy")(x.flatten(0, 1), False))


CASES: dict[str, tuple[Calls, dict[str, Tensor]]] = {
    "token_state": (Calls(lambda ids: op("token_state")(ids, 7)), {"ids": IDS}),
    "ratio_state": (Calls(lambda s: op("ratio_state")(s, None, [0.2, 0.6])), {"s": STATE}),
    "ratio_state padded": (
        Calls(lambda s, keep: op("ratio_state")(s, keep, [0.2, 0.6])),
        {"s": STATE, "keep": KEEP},
    ),
    "ratio_state bool mask": (
        Calls(lambda s, keep: op("ratio_state")(s, keep, [0.5])),
        {"s": STATE, "keep": SEEN},
    ),
    "ratio_state float mask": (
        Calls(lambda s, keep: op("ratio_state")(s, keep, [0.5])),
        {"s": STATE, "keep": torch.where(SEEN, 0.0, -1e9)},
    ),
    "center": (Calls(op("center"), means=normal(STATES, FEATURES)), {"x": X, "s": STATE}),
    "rotate dense": rotation("dense", basis(FEATURES, FEATURES)),
    "rotate kronecker": rotation("kronecker", *KRONECKER),
    "rotate block": rotation("block", BLOCKS),
    "rotate hadamard": rotation("hadamard", normal(FEATURES).sign(), *KRONECKER),
    "gate": (Calls(lambda x, s: op("gate")(x, s, 20, BOUNDS)), {"x": X, "s": STATE}),
    "compensate": (Calls(op("compensate"), matrix=TAC[0], bias=TAC[1]), {"x": X}),
    "compensate_by_state": (
        Calls(
            lambda x, s, **maps: op("compensate_by_state")(x, s, [1, 0], *maps.values()),
            matrix=BY_STATE[0],
            bias=BY_STATE[1],
        ),
        {"x": X, "s": STATE},
    ),
    "add_state_bias": (
        Calls(op("add_state_bias"), bias=normal(STATES, FEATURES)),
        {"x": X, "s": STATE},
    ),
    "split_low_rank and add_low_rank": (
        Calls(both, directions=DIRECTIONS, image=IMAGE),
        {"x": X, "s": STATE},
    ),
    "split_low_rank after center": (
        Calls(centred, means=normal(STATES, FEATURES), directions=DIRECTIONS, image=IMAGE),
        {"x": X, "s": STATE},
    ),
    "greedy": (Calls(of_logits), {"x": X}),
}


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_the_reference_does(name: str, tmp_path: Path) -> None:
    module, inputs = CASES[name]
    wanted = module(*inputs.values())
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    outputs = [f"y{i}" for i in range(len(wanted))]
    model = exported(module, inputs, outputs)
    assert not [node for node in model.graph if node.domain], "only ONNX's own operators"
    for found in (run(model, inputs, tmp_path), run_by_definition(model, inputs)):
        for one, expected in zip(found, wanted, strict=True):
            assert one.dtype == expected.dtype
            torch.testing.assert_close(one, expected, atol=2e-6, rtol=2e-6)


def test_every_operator_of_a_fused_graph_has_a_case() -> None:
    others = {
        *("transform_quantize", "quantize_activation", "dequantize_activation"),
        *("quantized_linear", "dequantize_weight"),  # test_linears
    }
    before_fusion = {"partition", "scatter", "quantize_weight", "pack"}
    tried = {name.split()[0] for name in CASES} | {"add_low_rank"}
    assert tried == set(PLAIN)
    assert set(names()) == tried | others | before_fusion


def test_the_axes_are_free(tmp_path: Path) -> None:
    module, inputs = CASES["rotate kronecker"]
    model = exported(module, inputs, ["y"])
    assert [str(size) for size in model.graph.inputs[0].shape or ()] == ["batch", "length", "24"]
    for shape in ((1, 1, FEATURES), (2, 9, FEATURES)):
        x = normal(*shape)
        (found,) = run(model, {"x": x}, tmp_path)
        torch.testing.assert_close(found, reference.rotate(x, KRONECKER, "kronecker"))
