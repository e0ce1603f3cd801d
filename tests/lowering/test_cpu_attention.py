"""What the CPU target does to attention and rotary embeddings, against the reference target."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn.functional import scaled_dot_product_attention

from starquant_fx.capture import capture
from starquant_fx.kernels import cpu
from starquant_fx.lowering import lower
from starquant_fx.operators import op
from starquant_fx.pass_manager import run_passes
from starquant_fx.program import ATTENTION, Program
from starquant_fx.recipes import get_recipe
from tests.small_models import MASK, masked_ids, model
from tests.small_programs import calibration, captured, relative

pytestmark = pytest.mark.skipif(cpu.unavailable() is not None, reason=str(cpu.unavailable()))
ROTARY = {"llada-short": 2, "dream-short": 2, "odd": 2, "bert-short": 0, "modernbert": 0}
"""Rotary embeddings an attention that the kernel covers; ModernBERT's rounds its tables."""


@functools.cache
def half_model(kind: str) -> nn.Module:
    return copy.deepcopy(model(kind)).to(torch.bfloat16)


def program_of(given: nn.Module, kind: str, **arguments: Tensor) -> Program:
    return capture(given, get_recipe("rtn-w8a8"), mask_token_id=MASK[kind], arguments=arguments)


def calls(graph: fx.Graph, target: object) -> int:
    return sum(node.target == target for node in graph.nodes)


def check(program: Program, kind: str, covered: bool, *inputs: Tensor) -> None:
    """Whether the kernels are used, and the logits are as near as a rounding to bfloat16 lets them be."""
    attentions = len(program.nodes(ATTENTION))
    low, reference = lower(program, "cpu"), lower(program, "reference")
    assert calls(low.graph, op("attention")) == (attentions if covered else 0)
    assert calls(low.graph, ATTENTION) == (0 if covered else attentions)
    assert calls(low.graph, op("rotary")) == attentions * ROTARY[kind]
    found, expected = low(*inputs), reference(*inputs)
    assert found.isfinite().all()
    if covered:
        assert relative(found.double(), expected.double()) < 0.03
    else:
        assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", list(ROTARY))
def test_every_model_with_padding(kind: str) -> None:
    ids = masked_ids(kind, (3, 40), 0.5)
    padding = torch.ones(3, 40, dtype=torch.long).index_fill(1, torch.arange(5), 0)
    program = program_of(half_model(kind), kind, input_ids=ids, attention_mask=padding)
    check(program, kind, True, ids, padding)


@pytest.mark.parametrize("kind", list(ROTARY))
def test_attention_in_float32_stays_and_rotary_embeddings_are_bit_for_bit(kind: str) -> None:
    check(captured(kind), kind, False, masked_ids(kind, (3, 40), 0.5))


@pytest.mark.parametrize("dtype", [torch.bool, torch.bfloat16])
def test_a_mask_of_pairs(dtype: torch.dtype) -> None:
    ids = masked_ids("dream", (2, 12), 0.5)
    near = (torch.arange(12)[:, None] - torch.arange(12)).abs() < 4
    mask = near.expand(2, 1, 12, 12)
    if dtype != torch.bool:
        mask = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf).to(dtype)
    program = program_of(
        half_model("dream-short"), "dream-short", input_ids=ids, attention_mask=mask
    )
    check(program, "dream-short", True, ids, mask)


@pytest.mark.parametrize("kind", ["llada-short", "dream-short"])
def test_a_quantized_model(kind: str) -> None:
    ids = masked_ids(kind, (2, 70), 0.5)
    program = program_of(half_model(kind), kind, input_ids=ids)
    program.calibration = calibration(kind)
    program = run_passes(program, get_recipe("rtn-w8a8").passes)
    check(program, kind, True, ids)


class _Attention(nn.Module):
    """A denoiser of one attention, called with any options."""

    def __init__(self, kv_channels: int = 16, **options: object) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 32)
        self.value = nn.Linear(32, 2 * kv_channels)
        self.head = nn.Linear(2 * kv_channels, 20)
        self.options = options

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embedding(input_ids)
        q = x.unflatten(-1, (2, 16)).transpose(1, 2)
        v = self.value(x).unflatten(-1, (2, -1)).transpose(1, 2)
        mixed = scaled_dot_product_attention(q, q, v, **self.options)  # type: ignore[arg-type]
        logits: Tensor = self.head(mixed.transpose(1, 2).flatten(2))
        return logits


@pytest.mark.parametrize(
    ("options", "covered"),
    [
        ({}, True),
        ({"scale": 0.7}, True),
        ({"scale": -0.7}, False),
        ({"is_causal": True}, False),
        ({"dropout_p": 0.0}, True),
        ({"kv_channels": 8}, False),
    ],
)
def test_what_the_kernel_does_not_cover_stays(options: dict[str, object], covered: bool) -> None:
    torch.manual_seed(0)
    given = _Attention(**options).to(torch.bfloat16).eval()  # type: ignore[arg-type]
    ids = torch.randint(0, 20, (2, 9))
    program = program_of(given, "bert-short", input_ids=ids)
    check(program, "bert-short", covered, ids)


def test_what_is_almost_a_rotary_embedding_stays() -> None:
    program = captured("llada")
    total = program.nodes(ATTENTION)[0].args[0]
    assert isinstance(total, fx.Node)
    with_cos, with_sin = total.all_input_nodes
    sine, cosine = with_sin.args[1], with_cos.args[1]
    before = calls(lower(program, "cpu").graph, op("rotary"))
    # Without the minus.
    turned = with_sin.all_input_nodes[0]
    negative, first = turned.all_input_nodes
    turned.args = ([negative.args[0], first], -1)
    ids = masked_ids("llada", (2, 9), 0.5)
    assert calls(lower(program, "cpu").graph, op("rotary")) == before - 1
    assert torch.equal(lower(program, "cpu")(ids), lower(program, "reference")(ids))
    # With the halves the other way round.
    turned.args = ([first, negative], -1)
    assert calls(lower(program, "cpu").graph, op("rotary")) == before - 1
    turned.args = ([negative, first], -1)
    # With sine and cosine exchanged it is one, of other angles.
    with_sin.update_arg(1, cosine)
    with_cos.update_arg(1, sine)
    assert calls(lower(program, "cpu").graph, op("rotary")) == before
    assert torch.equal(lower(program, "cpu")(ids), lower(program, "reference")(ids))
