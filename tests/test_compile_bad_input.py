"""What ``starquant_fx.compile`` and a compiled model refuse, and how."""

from __future__ import annotations

import copy
import functools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import starquant_fx
from starquant_fx.compiled import CompiledModel
from starquant_fx.errors import (
    CalibrationError,
    CaptureError,
    ConfigError,
    InputError,
    LoweringError,
    PassError,
    RecipeError,
    StarQuantError,
)
from starquant_fx.passes import Canonicalize, Fuse
from starquant_fx.recipe import Recipe
from starquant_fx.recipes import get_recipe
from tests.compile_cases import small
from tests.small_models import MASK, masked_ids, model

TEXTS = masked_ids("odd", (4, 12), 0.0)
KEPT = torch.ones(4, 12)


def attempt(
    built: nn.Module | None = None, recipe: Any = "rtn-w4a4", **arguments: Any
) -> CompiledModel:
    given = {"calibration": TEXTS, **arguments}
    return starquant_fx.compile(built or model("odd"), recipe, **given)


@functools.cache
def compiled() -> CompiledModel:
    return attempt(recipe=small("rtn-w4a4"))


def changed(name: str, value: float, scale: bool = False) -> nn.Module:
    """A copy of the small model with one damaged parameter."""
    built = copy.deepcopy(model("odd"))
    with torch.no_grad():
        parameter = built.get_parameter(name)
        if scale:
            parameter.mul_(value)
        else:
            parameter.view(-1)[3] = value
    return built


@pytest.mark.parametrize(
    ("recipe", "message", "offered"),
    [
        ("stra-w4a4", "unknown recipe 'stra-w4a4'", "did you mean 'star-w4a4'?"),
        ("foo-w4a4", "unknown recipe 'foo-w4a4'", "do: `starquant-fx recipes`"),
        ("gpqt-4bit", "unknown recipe", "did you mean 'gptq-w4a4'?"),
        ("star-paper", "unknown recipe 'star-paper'", "did you mean 'star-paper-w4a4'?"),
        ("dllmqant++-w8a8", "unknown recipe", "did you mean 'dllmquant++-w8a8'?"),
        ("", "unknown recipe ''", "do: `starquant-fx recipes`"),
        (3, "unknown recipe 3", "do: `starquant-fx recipes`"),
        ("rtn+foo-w4a4", "unknown extra 'foo'", "do: `starquant-fx recipes`"),
        ("rtn-w9a4", "weight bits are out of range", "do: for example 4 or 8: w4, w8"),
        ("rtn-w4a1", "activation bits are out of range", "do: for example 4 or 8: a4, a8"),
        ("star-w0a0", "weight bits are out of range", "do: for example 4 or 8"),
        ("star-w4", "malformed bits", "as in star-w4a8"),
    ],
)
def test_recipes(recipe: Any, message: str, offered: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        attempt(recipe=recipe)
    assert offered in str(caught.value)


def test_a_recipe_that_quantizes_nothing() -> None:
    with pytest.raises(PassError, match="leaves every linear in full precision"):
        attempt(recipe="rtn-w16a16")


def test_passes_out_of_order_before_anything_is_done() -> None:
    class Untouchable(nn.Module):
        def forward(self, input_ids: Tensor) -> Tensor:
            raise AssertionError("the model was run")

    with pytest.raises(PassError, match="pass fuse is out of order") as caught:
        attempt(Untouchable(), Recipe("mine", 4, 4, (Canonicalize(), Fuse())), mask_token_id=1)
    assert "fold-sgat before it" in str(caught.value)
    assert "canonicalize -> fuse" in str(caught.value)


@pytest.mark.parametrize("target", ["referense", "tensorrt", "", None, 3, ["reference"]])
def test_targets(target: Any) -> None:
    with pytest.raises(LoweringError, match=re.escape(f"unknown target {target!r}")) as caught:
        attempt(target=target)
    assert ("did you mean 'reference'?" in str(caught.value)) == ("refer" in str(target))


@pytest.mark.parametrize(
    "device", ["cuda:99", "cudaa", 1.5, "", [], object()], ids=lambda device: str(device)[:7]
)
def test_devices(device: Any) -> None:
    with pytest.raises(ConfigError, match="the device is not usable") as caught:
        attempt(device=device)
    assert caught.value.where == "device"


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("llada-tiny", "load it first: model, tokenizer = starquant_fx.from_pretrained('llada-"),
        (Path("folder"), "load it first"),
        ((model("odd"), None), "pass the first of the two"),
        (None, "load one: model, tokenizer"),
        (type(model("odd")), "load one: model, tokenizer"),
    ],
)
def test_what_is_no_model(given: Any, hint: str, tmp_path: Path) -> None:
    for refused in (
        lambda: starquant_fx.compile(given),
        lambda: starquant_fx.load_artifact(given, tmp_path / "a.safetensors"),
    ):
        with pytest.raises(InputError, match="no model") as caught:
            refused()
        assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokenizer", "llada-tiny"),
        ("token_state_input", "no"),
        ("token_state_input", 1),
        ("observe", "print"),
        ("mask_token_id", "60"),
        ("mask_token_id", True),
        ("mask_token_id", 60.0),
    ],
)
def test_arguments_of_a_wrong_kind(name: str, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        attempt(**{name: value})
    assert caught.value.where == name
    assert caught.value.got == repr(value)
    assert caught.value.expected


def test_a_compiled_model_is_not_compiled_again() -> None:
    with pytest.raises(InputError, match="compiled already"):
        attempt(compiled())


class Anonymous(nn.Module):
    """A model that says nothing about itself."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: Tensor) -> Tensor:
        out: Tensor = self.inner(input_ids).logits
        return out


def test_no_mask_token_and_no_state_input() -> None:
    with pytest.raises(CaptureError, match="nothing says which tokens are masked") as caught:
        attempt(Anonymous(model("odd")))
    assert "token_state_input=True" in str(caught.value)


@pytest.mark.parametrize("mask", [61, -1, 10**6])
def test_a_mask_token_outside_the_vocabulary(mask: int) -> None:
    with pytest.raises(InputError, match="mask token is outside"):
        attempt(mask_token_id=mask)


def test_a_state_input_needs_calibration() -> None:
    with pytest.raises(CalibrationError, match="cannot generate its own calibration"):
        attempt(calibration=None, token_state_input=True)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite(value: float) -> None:
    name = "model.transformer.blocks.0.up_proj.weight"
    with pytest.raises(InputError, match="weights are not finite") as caught:
        attempt(changed(name, value))
    assert caught.value.where == name
    assert "1 NaN or Inf" in str(caught.value)


@pytest.mark.parametrize("calibration", [TEXTS, None])
@pytest.mark.parametrize("recipe", ["rtn-w4a4", "star-w4a4"])
def test_activations_that_overflow(recipe: str, calibration: Tensor | None) -> None:
    overflowing = changed("model.transformer.blocks.0.ff_proj.weight", 1e30, scale=True)
    with torch.no_grad():
        overflowing.get_parameter("model.transformer.blocks.0.up_proj.weight").mul_(1e30)
    with pytest.raises(CalibrationError, match="not finite"):
        attempt(overflowing, small(recipe), calibration=calibration)


def test_activations_that_overflow_without_rolling_out() -> None:
    overflowing = changed("model.transformer.blocks.0.ff_proj.weight", 1e30, scale=True)
    with torch.no_grad():
        overflowing.get_parameter("model.transformer.blocks.0.up_proj.weight").mul_(1e30)
    with pytest.raises(CalibrationError, match="activations are not finite") as caught:
        attempt(overflowing, small("rtn-w4a4"), token_state_input=True)
    assert caught.value.where == "model.transformer.blocks.0.ff_out"
    assert "values read by this site, the first, " in str(caught.value)


@pytest.mark.parametrize(
    ("calibration", "kind"),
    [
        ([""], CalibrationError),
        (["no tokenizer"], CalibrationError),
        (torch.tensor([[1, 61]]), InputError),
        (torch.ones(2, 65).long(), InputError),
    ],
)
def test_calibration(calibration: Any, kind: type[StarQuantError]) -> None:
    with pytest.raises(kind) as caught:
        attempt(calibration=calibration)
    assert "calibration" in str(caught.value)


def test_a_model_of_linears() -> None:
    class Linears(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(9, 8), nn.Linear(8, 9)

        def forward(self, input_ids: Tensor) -> Tensor:
            out: Tensor = self.head(self.embed(input_ids))
            return out

    with pytest.raises(CaptureError, match="no scaled_dot_product_attention"):
        attempt(Linears(), mask_token_id=8, calibration=torch.ones(2, 4).long())


# Calls of the compiled model


@pytest.mark.parametrize(
    ("arguments", "message", "where"),
    [
        ({"input_ids": torch.tensor([[61]])}, "out of range", "input_ids"),
        ({"input_ids": torch.tensor([[-1]])}, "out of range", "input_ids"),
        ({"input_ids": torch.tensor([[0.5]])}, "wrong dtype", "input_ids"),
        (
            {"input_ids": torch.ones(65).long()[None]},
            "longer than the model's maximum",
            "input_ids",
        ),
        ({"input_ids": torch.ones(4).long()}, "wrong rank", "input_ids"),
        ({}, "do not fit the model", "forward"),
        ({"input_ids": None}, "no token ids", "input_ids"),
        ({"input_ids": TEXTS, "labels": TEXTS}, "do not fit the model", "forward"),
        ({"input_ids": TEXTS, "output_hidden_states": True}, "logits only", "output_hidden_states"),
        (
            {"input_ids": TEXTS, "attention_mask": torch.zeros(4, 11)},
            "does not fit",
            "attention_mask",
        ),
        (
            {"input_ids": TEXTS, "attention_mask": torch.zeros(3, 12)},
            "does not fit",
            "attention_mask",
        ),
        (
            {"input_ids": TEXTS, "attention_bias": torch.zeros(2, 1, 12, 12)},
            "does not fit",
            "attention_bias",
        ),
        (
            {"input_ids": TEXTS, "attention_bias": torch.zeros(4, 1, 5, 12)},
            "does not fit",
            "attention_bias",
        ),
        ({"input_ids": TEXTS, "attention_bias": torch.zeros(12)}, "does not fit", "attention_bias"),
        ({"input_ids": TEXTS, "attention_mask": 2 * KEPT}, "other values", "attention_mask"),
        ({"input_ids": TEXTS, "attention_mask": -KEPT}, "other values", "attention_mask"),
        ({"input_ids": TEXTS, "attention_mask": KEPT / 2}, "other values", "attention_mask"),
        ({"input_ids": TEXTS, "attention_mask": KEPT * torch.nan}, "other", "attention_mask"),
        ({"input_ids": TEXTS, "token_state": TEXTS}, "token state", "token_state"),
    ],
)
def test_calls(arguments: dict[str, Any], message: str, where: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        compiled()(**arguments)
    assert caught.value.where == where


@functools.cache
def with_state_input() -> CompiledModel:
    return attempt(recipe=small("rtn-w4a4"), token_state_input=True)


@pytest.mark.parametrize(
    "state", [None, torch.zeros(4, 11).long(), torch.zeros(4, 12), TEXTS, "masked"]
)
def test_token_states(state: Any) -> None:
    given = {} if state is None else {"token_state": state}
    with pytest.raises(InputError, match="token state"):
        with_state_input()(TEXTS, **given)


def test_a_refused_call_leaves_the_model_usable() -> None:
    with pytest.raises(InputError):
        compiled()(TEXTS, attention_mask=torch.zeros(4, 11))
    ids = masked_ids("odd", (2, 6), 0.5)
    assert compiled()(ids).logits.shape == (2, 6, 61)
    assert MASK["odd"] == compiled().program.mask_token_id
    assert get_recipe("rtn-w4a4").name == compiled().recipe.name
