"""Calls of a compiled model: masks, positions, token states, generation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import starquant_fx
from starquant_fx.capture import capture
from starquant_fx.errors import InputError
from starquant_fx.lowering import lower
from starquant_fx.pass_manager import run_passes
from tests.compile_cases import CLOSE, compiled, made, small, texts
from tests.small_models import MASK, masked_ids, model
from tests.small_programs import distance, logits


def attention_masks(length: int) -> dict[str, Tensor]:
    padding = torch.ones(3, length, dtype=torch.long)
    padding[0, :4] = 0
    padding[2, :1] = 0
    seen = torch.rand(3, 1, length, length, generator=torch.Generator().manual_seed(0)) < 0.7
    return {
        "2d": padding,
        "2d-bool": padding.bool(),
        "4d": seen | torch.eye(length, dtype=torch.bool),
        "4d-keys": padding.bool()[:, None, None, :],
    }


@pytest.mark.parametrize(
    "which",
    ["2d", *(pytest.param(w, marks=pytest.mark.slow) for w in ("2d-bool", "4d-keys")), "4d"],
)
def test_attention_masks_of_dream(which: str) -> None:
    """A variant captured on demand computes what a capture with these arguments and real weights does."""
    one = compiled("dream", "rtn-w8a8")
    ids, mask = masked_ids("dream", (3, 9), 0.5), attention_masks(9)[which]
    arguments = {"input_ids": ids, "attention_mask": mask}
    program = capture(model("dream"), one.recipe, mask_token_id=MASK["dream"], arguments=arguments)
    run_passes(program, one.recipe.passes)
    expected = logits(lower(program, one.report.target), ids, mask)
    with torch.no_grad():
        got = one(ids, attention_mask=mask).logits
        full = model("dream")(ids, attention_mask=mask).logits
        assert torch.equal(got, expected)
        assert distance(got, full) < CLOSE
        longer, mask = masked_ids("dream", (3, 13), 0.5), attention_masks(13)[which]
        full = model("dream")(longer, attention_mask=mask).logits
        assert distance(one(longer, attention_mask=mask).logits, full) < CLOSE


def test_a_mask_of_integers_a_pair_is_refused() -> None:
    ids, mask = masked_ids("dream", (3, 9), 0.5), attention_masks(9)["4d"].long()
    for one in (compiled("dream", "rtn-w8a8"), model("dream")):
        with pytest.raises(InputError, match="wrong dtype") as caught:
            one(ids, attention_mask=mask)
        assert caught.value.where == "attention_mask"


def test_masks_that_hide_nothing_need_no_variant() -> None:
    one = compiled("dream", "rtn-w8a8")
    ids = masked_ids("dream", (3, 9), 0.5)
    plain = logits(one, ids)
    variants = len(one._variants)
    with torch.no_grad():
        for mask in (None, "full", torch.ones(3, 9), torch.ones(3, 9).bool()):
            assert torch.equal(one(ids, attention_mask=mask).logits, plain)
    assert len(one._variants) == variants


def test_a_padded_row_is_answered_as_without_padding() -> None:
    one = compiled("odd", "rtn-w8a8")
    ids = masked_ids("odd", (1, 9), 0.5)
    padded = torch.cat([torch.full((1, 4), 59), ids], 1).expand(2, -1)
    keep = torch.ones(2, 13, dtype=torch.long)
    keep[:, :4] = 0
    with torch.no_grad():
        # LLaDA counts positions from the left edge, so only the mask and not the place may matter.
        got = one(padded, attention_mask=keep).logits[:, 4:]
        full = model("odd")(padded, attention_mask=keep).logits[:, 4:]
    assert distance(got, full) < CLOSE
    assert torch.equal(got[0], got[1])


def test_a_padding_mask_of_bert() -> None:
    one = compiled("bert", "rtn-w8a8")
    ids, mask = masked_ids("bert", (3, 9), 0.5), attention_masks(9)["2d"]
    with torch.no_grad():
        full = model("bert")(input_ids=ids, attention_mask=mask).logits
        got = one(input_ids=ids, attention_mask=mask, token_type_ids=None, return_dict=True).logits
    assert distance(got, full) < CLOSE


@pytest.mark.parametrize("name", ["star-w4a4", "rtn-w4a4"])
def test_the_token_state_can_be_an_input(name: str) -> None:
    recipe = small(name)
    by_input = starquant_fx.compile(
        model("odd"), recipe, calibration=texts("odd"), token_state_input=True
    )
    ids = masked_ids("odd", (3, 9), 0.5)
    state = (ids == MASK["odd"]).long()
    with torch.no_grad():
        got = by_input(ids, token_state=state).logits
        assert distance(got, logits(model("odd"), ids)) < 0.5
        flipped = by_input(ids, token_state=1 - state).logits
        assert torch.equal(got, flipped) == (name == "rtn-w4a4")
        keep = torch.ones_like(ids)
        keep[0, :2] = 0
        for _ in range(2):  # captured, then found again
            padded = by_input(ids, attention_mask=keep, token_state=state).logits
            assert not torch.equal(padded[0], got[0])
            assert distance(padded[1:], got[1:]) < CLOSE  # a flipped code at most


def test_a_state_input_and_a_mask_token_give_the_same_codes() -> None:
    by_token = compiled("odd", "rtn-w4a4")
    by_input = starquant_fx.compile(
        model("odd"), small("rtn-w4a4"), calibration=texts("odd"), token_state_input=True
    )
    assert all(torch.equal(t, made(by_input)[n]) for n, t in made(by_token).items())


def test_ids_may_be_int32() -> None:
    ids = masked_ids("odd", (2, 5), 0.5)
    one = compiled("odd", "star-w4a4")
    assert torch.equal(logits(one, ids.int()), logits(one, ids))


def test_it_generates() -> None:
    one = compiled("llada", "star-w4a4")
    prompt = masked_ids("llada", (2, 4), 0.0)
    out = one.generate(prompt, steps=4, gen_length=8, block_length=4)
    assert out.shape == (2, 12)
    assert torch.equal(out[:, :4], prompt)
    assert not bool((out == MASK["llada"]).any())
    assert torch.equal(
        out, starquant_fx.generate(one, prompt, steps=4, gen_length=8, block_length=4)
    )


class Hinted(nn.Module):
    """A denoiser that reads a table of its own only when it gets an argument."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = model("odd")
        self.hints = nn.Embedding(2, 61)

    def forward(self, input_ids: Tensor, hints: Tensor | None = None) -> Tensor:
        out: Tensor = self.inner(input_ids).logits
        return out if hints is None else out + self.hints(hints)


def test_a_later_capture_finds_parameters_that_the_first_one_did_not_read() -> None:
    torch.manual_seed(0)
    built = Hinted().eval()
    one = starquant_fx.compile(
        built, small("rtn-w8a8"), calibration=texts("odd"), mask_token_id=MASK["odd"]
    )
    assert "hints.weight" not in one.program.tensors()
    ids = masked_ids("odd", (3, 9), 0.5)
    with torch.no_grad():
        got = one(ids, hints=ids % 2).logits
        assert torch.equal(got, one(ids).logits + built.hints(ids % 2))


@pytest.mark.parametrize("kind", ["llada", "dream"])
def test_torch_compile_takes_it_whole_and_once_for_all_lengths(kind: str) -> None:
    one = compiled(kind, "star-w4a4")
    counter = CompileCounter()
    torch._dynamo.reset()
    whole = torch.compile(one, backend=counter, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for shape in ((2, 9), (3, 17), (2, 33), (4, 10)):
            ids = masked_ids(kind, shape, 0.5)
            torch.testing.assert_close(whole(ids).logits, one(ids).logits)
    assert counter.frame_count == 1


def test_torch_compile_takes_kinds_of_calls_that_were_captured_before() -> None:
    one = compiled("llada", "rtn-w4a4")
    ids, keep = masked_ids("llada", (3, 9), 0.5), attention_masks(9)["2d"]
    rows = torch.tensor([0, 5, 20])
    with torch.no_grad():
        padded, chosen = one(ids, attention_mask=keep).logits, one.logits_at(rows, ids)
        torch._dynamo.reset()
        whole = torch.compile(one, backend="eager", fullgraph=True, dynamic=True)
        at_rows = torch.compile(one.logits_at, backend="eager", fullgraph=True, dynamic=True)
        torch.testing.assert_close(whole(ids, attention_mask=keep).logits, padded)
        torch.testing.assert_close(at_rows(rows, ids), chosen)
