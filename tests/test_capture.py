from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from starquant_fx.capture import capture, example_inputs, skeleton
from starquant_fx.compiled import bind_tensors
from starquant_fx.errors import CaptureError, LoweringError
from starquant_fx.pass_manager import run_passes
from starquant_fx.program import ATTENTION, LINEAR, Program, facts
from starquant_fx.recipes import get_recipe
from tests.small_models import KINDS, MASK, masked_ids, model
from tests.small_programs import captured, logits, quick, relative, rewritten

RTN = get_recipe("rtn-w8a8")


def inputs(program: Program) -> list[str]:
    return [str(n.target) for n in program.graph.nodes if n.op == "placeholder"]


def masks(length: int) -> dict[str, Tensor]:
    """Attention masks of a batch of three, of every form that the models take."""
    padding = torch.ones(3, length, dtype=torch.long)
    padding[0, :4] = 0
    padding[2, -1:] = 0
    seen = torch.rand(3, 1, length, length, generator=torch.Generator().manual_seed(0)) < 0.7
    return {
        "padding": padding,
        "padding-bool": padding.bool(),
        "4d-bool": seen | torch.eye(length, dtype=torch.bool),
        "4d-bool-keys": padding.bool()[:, None, None, :],
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_is_a_plain_graph_over_the_weights_of_the_model(kind: str) -> None:
    program = captured(kind)
    assert inputs(program) == ["input_ids"]
    assert {n.op for n in program.graph.nodes} == {
        "placeholder",
        "get_attr",
        "call_function",
        "output",
    }
    linears = sum(isinstance(m, nn.Linear) for m in model(kind).modules())
    assert len(program.nodes(LINEAR)) == linears
    assert program.nodes(ATTENTION)
    (output,) = [n for n in program.graph.nodes if n.op == "output"]
    assert output.args[0].meta["val"].dim() == 3
    held = dict(model(kind).named_parameters(remove_duplicate=False))
    read = {n: t for n, t in program.tensors().items() if n in held}
    assert len(read) > linears
    assert all(t.data_ptr() == held[n].data_ptr() for n, t in read.items())


@pytest.mark.parametrize("which", ["padding", "padding-bool", "4d-bool", "4d-bool-keys"])
def test_dream_is_captured_for_each_form_of_attention_mask(which: str) -> None:
    example = {"input_ids": masked_ids("dream", (3, 9), 0.5), "attention_mask": masks(9)[which]}
    program = capture(model("dream"), RTN, mask_token_id=MASK["dream"], arguments=example)
    assert inputs(program) == ["input_ids", "attention_mask"]
    ids = masked_ids("dream", (3, 14), 0.5)
    mask = masks(14)[which]
    expected = logits(lambda a, b: model("dream")(a, attention_mask=b), ids, mask)
    assert relative(logits(program.module, ids, mask), expected) < 1e-5


def test_positions_of_dream_are_an_argument_like_any_other() -> None:
    ids = masked_ids("dream", (3, 9), 0.5)
    for positions in (torch.arange(9)[None] + 4, torch.arange(27).view(3, 9)):
        example = {"input_ids": ids, "position_ids": positions}
        program = capture(model("dream"), RTN, mask_token_id=MASK["dream"], arguments=example)
        expected = logits(lambda a, b: model("dream")(a, position_ids=b), ids, positions)
        assert relative(logits(program.module, ids, positions), expected) < 1e-5


def test_examples_have_the_rank_dtype_and_ones_of_the_call() -> None:
    examples = example_inputs(
        {
            "input_ids": torch.zeros(1, 5, dtype=torch.int32),
            "position_ids": torch.zeros(1, 5, dtype=torch.long),
            "attention_mask": torch.zeros(7, 1, 1, 5, dtype=torch.bool),
        }
    )
    shapes = {name: (tuple(t.shape), t.dtype) for name, t in examples.items()}
    assert shapes == {
        "input_ids": ((2, 12), torch.int32),
        "position_ids": ((1, 12), torch.int64),
        "attention_mask": ((2, 1, 1, 12), torch.bool),
    }
    with pytest.raises(CaptureError, match="argument of this rank") as caught:
        example_inputs({"input_ids": torch.zeros(2, 2), "bias": torch.zeros(3)})
    assert caught.value.where == "bias"


class Denoiser(nn.Module):
    """Embedding, attention and a head, each of which can be left out or go wrong."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.embed = nn.Embedding(9, 8)
        self.first, self.head = nn.Linear(8, 8), nn.Linear(8, 9)

    def forward(self, input_ids: Tensor) -> Any:
        x = self.embed(input_ids)
        if self.fault == "not implemented":
            raise NotImplementedError
        if self.fault == "assertion":
            raise AssertionError
        if self.fault == "no linear":
            return F.scaled_dot_product_attention(x, x, x)
        x = self.first(x)
        if self.fault == "no attention":
            return self.head(x.softmax(-1))
        if self.fault == "eager":
            return self.head((x @ x.transpose(1, 2)).softmax(-1) @ x)
        x = F.scaled_dot_product_attention(x, x, x)
        if self.fault == "data" and float(x.sum()) > 0:
            x = x * 2
        return SimpleNamespace(scores=x) if self.fault == "no logits" else self.head(x)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no linear", "the graph has no linear"),
        ("no attention", "the graph has no scaled_dot_product_attention"),
        ("eager", "the graph has no scaled_dot_product_attention"),
        ("no logits", "the model returns no logits"),
        ("data", "the model cannot be traced"),
        ("not implemented", "the model cannot be traced"),
        ("assertion", "the model cannot be traced"),
    ],
)
def test_models_that_cannot_be_compiled_are_refused(fault: str, message: str) -> None:
    with pytest.raises(CaptureError, match=message) as caught:
        capture(Denoiser(fault).eval(), RTN, mask_token_id=8)
    error = caught.value
    assert error.where == "Denoiser"
    assert error.expected
    assert error.got
    hint = "torch.nn.functional.scaled_dot_product_attention" if "attention" in message else ""
    assert hint in str(error.hint)


@pytest.mark.parametrize(
    ("offered", "hint"), [(True, "attn_implementation='sdpa'"), (False, "use another model")]
)
def test_sdpa_is_hinted_at_only_where_a_model_offers_it(offered: bool, hint: str) -> None:
    class Marked(Denoiser):
        _supports_sdpa = offered  # as transformers marks its classes

    eager = Marked("eager").eval()
    with pytest.raises(CaptureError, match="no scaled_dot_product_attention") as caught:
        capture(eager, RTN, mask_token_id=8)
    assert hint in str(caught.value.hint)
    assert ("attn_implementation" in str(caught.value)) == offered


def test_a_model_of_linears_alone_is_refused() -> None:
    linears = nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 12))

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = linears

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.layers(F.one_hot(input_ids, 12).float())

    with pytest.raises(CaptureError, match="no scaled_dot_product_attention"):
        capture(Wrapped(), RTN, mask_token_id=8)


@pytest.mark.parametrize("kind", ["odd", "modernbert"])
def test_a_skeleton_holds_no_weights_and_leaves_the_model_alone(kind: str) -> None:
    original = model(kind)
    twin = skeleton(original)
    assert all(isinstance(p, FakeTensor) for p in twin.parameters())
    assert not any(isinstance(p, FakeTensor) for p in original.parameters())
    shapes = {n: (p.shape, p.dtype) for n, p in original.named_parameters()}
    assert {n: (p.shape, p.dtype) for n, p in twin.named_parameters()} == shapes
    for name, buffer in twin.named_buffers():
        assert torch.equal(buffer, original.get_buffer(name))


@pytest.mark.parametrize("kind", ["odd", "bert"])
def test_without_weights_the_same_program_is_made_and_tensors_are_bound_later(kind: str) -> None:
    recipe = quick("star-w4a4")
    real = rewritten(kind, recipe.passes, recipe)
    fake = capture(skeleton(model(kind)), recipe, mask_token_id=MASK[kind])
    assert fake.weightless
    run_passes(fake, recipe.passes)
    shapes = {n: (t.shape, t.dtype) for n, t in real.tensors().items()}
    assert {n: (t.shape, t.dtype) for n, t in fake.tensors().items()} == shapes
    assert all(isinstance(t, FakeTensor) for n, t in fake.tensors().items() if "starquant" in n)
    incomplete = dict(real.tensors())
    name, tensor = next((n, t) for n, t in incomplete.items() if n.endswith(".packed"))
    for wrong in (
        {**incomplete, name: tensor[1:]},
        {n: t for n, t in incomplete.items() if n != name},
    ):
        with pytest.raises(LoweringError, match="cannot be bound") as caught:
            bind_tensors(fake, wrong)
        assert caught.value.where == name
    bind_tensors(fake, real.tensors())
    ids = masked_ids(kind, (2, 9), 0.5)
    assert torch.equal(logits(fake.module, ids), logits(real.module, ids))


@pytest.mark.parametrize("head_first", [False, True])
def test_a_tied_head_goes_by_the_name_of_its_module(head_first: bool) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            if head_first:
                self.decoder = nn.Linear(8, 9)
            self.first, self.embed = nn.Linear(8, 8), nn.Embedding(9, 8)
            if not head_first:
                self.decoder = nn.Linear(8, 9)
            self.decoder.weight = self.embed.weight

        def forward(self, input_ids: Tensor) -> Tensor:
            x = self.first(self.embed(input_ids))
            out: Tensor = self.decoder(F.scaled_dot_product_attention(x, x, x))
            return out

    for built in (Tied().eval(), skeleton(Tied().eval())):
        program = capture(built, RTN, mask_token_id=8)
        assert [facts(n)["of"] for n in program.nodes(LINEAR)] == ["first", "decoder"]


EIGHT_BILLION = """
import json, resource, sys, time
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from starquant_fx.capture import capture
from starquant_fx.models.llada import LladaConfig, LladaModel
from starquant_fx.recipes import get_recipe

config = LladaConfig.from_dict(json.loads(sys.argv[1]))
recipe = get_recipe("star-w4a4")
before, start, used = resource.getrusage(resource.RUSAGE_SELF), time.time(), time.process_time()
torch.set_default_dtype(torch.bfloat16)
with FakeTensorMode(shape_env=ShapeEnv()):
    model = LladaModel(config).eval()
torch.set_default_dtype(torch.float32)
program = capture(model, recipe, mask_token_id=config.mask_token_id)
after = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    "parameters": sum(t.numel() for t in program.tensors().values()),
    "nodes": len(program.graph.nodes),
    "seconds": time.time() - start,
    "processor_seconds": time.process_time() - used,
    "megabytes": (after.ru_maxrss - before.ru_maxrss) / 1024,
}))
"""
PUBLISHED = {
    "model_type": "llada",
    "d_model": 4096,
    "n_layers": 32,
    "n_heads": 32,
    "n_kv_heads": 32,
    "mlp_hidden_size": 12288,
    "vocab_size": 126464,
    "embedding_size": 126464,
    "mask_token_id": 126336,
    "eos_token_id": 126081,
    "pad_token_id": 126081,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "max_sequence_length": 4096,
    "activation_type": "silu",
    "block_type": "llama",
    "layer_norm_type": "rms",
    "rope": True,
    "include_bias": False,
    "weight_tying": False,
}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_eight_billion_parameters_are_captured_without_weights() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EIGHT_BILLION, json.dumps(PUBLISHED)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["parameters"] == 8_015_581_184
    assert found["processor_seconds"] < 30  # what the machine's other work costs is not ours
    assert found["megabytes"] < 1000
