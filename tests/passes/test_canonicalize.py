from __future__ import annotations

import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from starquant_fx.capture import capture
from starquant_fx.pass_manager import verify
from starquant_fx.passes import Canonicalize
from starquant_fx.program import ATTENTION, LINEAR, Program, facts
from starquant_fx.recipes import get_recipe
from tests.small_models import model
from tests.small_programs import captured, continued, logits, relative

aten = torch.ops.aten
IDS = torch.arange(14).view(2, 7) % 11


def gains(program: Program) -> list[fx.Node]:
    """Multiplications with a vector that the model holds."""
    return [
        n
        for n in program.nodes(aten.mul.Tensor)
        if any(isinstance(a, fx.Node) and a.op == "get_attr" for a in n.args)
    ]


def linear_of(program: Program, name: str) -> fx.Node:
    return next(n for n in program.nodes(LINEAR) if facts(n)["of"] == name)


def weight_of(program: Program, name: str) -> Tensor:
    return program.tensor(linear_of(program, name).args[1])  # type: ignore[arg-type]


def test_asserts_go() -> None:
    before = captured("llada")
    assert before.nodes(aten._assert_tensor_metadata.default)
    after = continued(before, Canonicalize())
    assert not after.nodes(aten._assert_tensor_metadata.default)


def test_casts_and_slices_that_change_nothing_go_and_others_stay() -> None:
    before = captured("odd")
    first = before.nodes(LINEAR)[0]
    inserted = before.follow(first, aten._to_copy.default, (first,))
    inserted.kwargs = {"dtype": torch.float32}
    whole = before.follow(inserted, aten.slice.Tensor, (inserted, 1, 0, sys.maxsize))
    part = before.follow(whole, aten.slice.Tensor, (whole, 2, 0, 36))
    verify(before)
    changing = len(before.nodes(aten._to_copy.default)) - 1
    assert changing > 0
    after = continued(before, Canonicalize(fold_gains=False))
    assert len(after.nodes(aten._to_copy.default)) == changing
    assert [n.args[1:] for n in after.nodes(aten.slice.Tensor)] == [part.args[1:]]
    assert torch.equal(logits(after.module, IDS), logits(before.module, IDS))


def test_gains_of_rms_norms_move_into_the_linears_that_read_them() -> None:
    before = captured("llada")
    assert len(gains(before)) == 7  # two a block and the last one
    after = continued(before, Canonicalize())
    assert gains(after) == []
    parts: Any = model("llada").get_submodule("model.transformer")
    block = parts["blocks"][0]
    prefix = "model.transformer.blocks.0."
    for name, norm in (("q", "attn_norm"), ("k", "attn_norm"), ("v", "attn_norm")):
        expected = getattr(block, f"{name}_proj").weight * getattr(block, norm).weight
        assert torch.equal(weight_of(after, f"{prefix}{name}_proj"), expected)
    expected = block.ff_proj.weight * block.ff_norm.weight
    assert torch.equal(weight_of(after, f"{prefix}ff_proj"), expected)
    assert torch.equal(weight_of(after, f"{prefix}ff_out"), block.ff_out.weight)
    head = parts["ff_out"].weight * parts["ln_f"].weight
    assert torch.equal(weight_of(after, "model.transformer.ff_out"), head)


def test_gains_stay_where_they_are_told_to() -> None:
    after = continued(captured("llada"), Canonicalize(fold_gains=False))
    assert len(gains(after)) == 7
    name = "model.transformer.blocks.0.q_proj"
    assert torch.equal(weight_of(after, name), model("llada").get_parameter(f"{name}.weight"))


def test_a_norm_that_feeds_the_residual_stream_keeps_its_gain() -> None:
    after = continued(captured("bert"), Canonicalize())
    norms = after.nodes(aten.layer_norm.default)
    assert len(norms) == 6  # embeddings, two a layer, head
    folded = [n for n in norms if n.args[2] is None]
    # Only the last layer's is read by one linear and nothing else; the head's weight is the embedding's.
    (reader,) = folded[0].users
    assert len(folded) == 1
    assert facts(reader)["of"] == "cls.predictions.transform.dense"


class Block(nn.Module):
    """Embedding, a layer norm with gain and bias, linears, attention by ``attend``, a head."""

    def __init__(self, heads: int = 2, kv_heads: int = 2, mask: bool | None = None) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.mask = heads, kv_heads, mask
        width = 6 * heads
        self.embed = nn.Embedding(11, width)
        self.norm = nn.LayerNorm(width)
        self.plain = nn.Linear(width, 6 * kv_heads, bias=False)
        self.biased = nn.Linear(width, width)
        self.head = nn.Linear(width, 11)
        generator = torch.Generator().manual_seed(heads)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator))

    def forward(self, input_ids: Tensor) -> Tensor:
        h = self.norm(self.embed(input_ids))
        q = self.biased(h).unflatten(-1, (self.heads, 6)).transpose(1, 2)
        k = self.plain(h).unflatten(-1, (self.kv_heads, 6)).transpose(1, 2)
        repeats = self.heads // self.kv_heads
        if repeats > 1:
            k = k[:, :, None].expand(-1, -1, repeats, -1, -1)
            k = k.reshape(k.shape[0], self.heads, *k.shape[-2:])
        mask = None
        if self.mask is not None:
            length = input_ids.shape[1]
            mask = torch.ones(length, length, dtype=torch.bool)
            mask = mask & mask if self.mask else mask.tril()
        out = F.scaled_dot_product_attention(q, k, k, attn_mask=mask)
        return self.head(out.transpose(1, 2).flatten(2))


def canonical(module: nn.Module) -> tuple[Program, Program]:
    """The program of a module before and after, checked against the module."""
    before = capture(module.eval(), get_recipe("rtn-w8a8"), mask_token_id=10)
    after = continued(before, Canonicalize())
    assert relative(logits(after.module, IDS), logits(module, IDS)) < 1e-5
    return before, after


def test_gain_and_bias_of_a_layer_norm_move_into_weights_and_biases() -> None:
    module = Block()
    before, after = canonical(module)
    assert before.nodes(aten.layer_norm.default)[0].args[2] is not None
    (norm,) = after.nodes(aten.layer_norm.default)
    assert norm.args[2:4] == (None, None)
    gain, shift = module.norm.weight, module.norm.bias
    assert torch.equal(weight_of(after, "plain"), module.plain.weight * gain)
    bias = after.tensor(linear_of(after, "plain").args[2])  # type: ignore[arg-type]
    torch.testing.assert_close(bias, module.plain.weight @ shift)
    bias = after.tensor(linear_of(after, "biased").args[2])  # type: ignore[arg-type]
    torch.testing.assert_close(bias, module.biased.weight @ shift + module.biased.bias)


def test_a_mask_that_hides_nothing_goes() -> None:
    before, after = canonical(Block(mask=True))
    assert len(before.nodes(ATTENTION)[0].args) > 3
    (attention,) = after.nodes(ATTENTION)
    assert attention.args[3:4] in ((), (None,))
    assert not after.nodes(aten.bitwise_and.Tensor)


def test_a_mask_that_hides_something_stays() -> None:
    _, after = canonical(Block(mask=False))
    (attention,) = after.nodes(ATTENTION)
    assert isinstance(attention.args[3], fx.Node)


def test_repeated_heads_become_grouped_attention() -> None:
    before, after = canonical(Block(heads=6, kv_heads=2))
    assert before.nodes(ATTENTION)[0].args[1].meta["val"].shape[1] == 6  # type: ignore[union-attr]
    (attention,) = after.nodes(ATTENTION)
    assert attention.kwargs["enable_gqa"] is True
    assert [a.meta["val"].shape[1] for a in attention.args[:3]] == [6, 2, 2]  # type: ignore[union-attr]
    assert not after.nodes(aten.expand.default)
