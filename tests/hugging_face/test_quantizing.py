"""``quantization_config=StarQuantConfig(...)``: quantized while loading, with the bits of ``starquant_fx.compile``."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    GPTQConfig,
)
from transformers.quantizers.auto import AutoHfQuantizer, AutoQuantizationConfig

import starquant_fx
from starquant_fx.errors import CheckpointError, InputError, RecipeError, StarQuantError
from starquant_fx.integrations.hugging_face.quantizer import StarQuantQuantizer
from starquant_fx.models.locate import PRETRAINED
from tests.compile_cases import small, texts
from tests.small_models import MASK, SHARED, masked_ids

Config = starquant_fx.StarQuantConfig
Folder = Callable[[str], Path]


def quantized(folder: Path, config: Any, **options: Any) -> Any:
    return AutoModelForMaskedLM.from_pretrained(folder, quantization_config=config, **options)


@pytest.mark.parametrize(("kind", "recipe"), [("llada", "star-w4a4"), ("dream", "rtn-w4a8")])
def test_the_bits_of_compile(kind: str, recipe: str, full: Folder) -> None:
    asked: dict[str, Any] = {"calibration": texts(kind), "target": "reference"}
    loaded = quantized(full(kind), Config(small(recipe), **asked))
    plain, _ = starquant_fx.from_pretrained(full(kind))
    ours = starquant_fx.compile(plain, small(recipe), **asked)
    ids = masked_ids(kind, (2, 9), 0.5)
    assert torch.equal(loaded(ids).logits, ours(ids).logits)
    assert loaded.compiled.report.target == "reference"
    assert loaded.compiled.fingerprint == ours.fingerprint
    assert loaded.is_quantized


def test_texts_take_the_folders_tokenizer() -> None:
    lines = ["Once upon a time there was a cat.", "The sun was warm."] * 8
    model, tokenizer = starquant_fx.from_pretrained("llada-tiny")
    recipe = small("smoothquant-w8a8")
    loaded = quantized(PRETRAINED / "llada-tiny", Config(recipe, calibration=lines))
    ours = starquant_fx.compile(model, recipe, calibration=lines, tokenizer=tokenizer)
    ids = torch.arange(40, 52)[None]
    assert torch.equal(loaded(ids).logits, ours(ids).logits)


def test_the_copies_that_transformers_makes_share_the_data() -> None:
    lines, tokenizer = ["a", "b"], object()
    again = copy.deepcopy({"config": Config("rtn-w4a4", calibration=lines, tokenizer=tokenizer)})
    assert again["config"].calibration is lines
    assert again["config"].tokenizer is tokenizer


def test_the_dtype_is_the_full_precision_models(full: Folder) -> None:
    loaded = quantized(full("odd"), Config("rtn-w4a4"), dtype=torch.bfloat16)
    assert loaded.dtype == loaded(masked_ids("odd", (1, 4), 0.5)).logits.dtype == torch.bfloat16
    assert loaded.config.quantization_config.packed.dtype == "bfloat16"


def test_what_transformers_loads_compiles_as_what_we_load(full: Folder) -> None:
    recipe, given = small("rtn-w4a4"), texts("odd")
    loaded: Any = AutoModelForMaskedLM.from_pretrained(full("odd"))
    plain, _ = starquant_fx.from_pretrained(full("odd"))
    theirs = starquant_fx.compile(loaded, recipe, calibration=given)
    ours = starquant_fx.compile(plain, recipe, calibration=given)
    ids = masked_ids("odd", (1, 6), 0.5)
    assert torch.equal(theirs(ids).logits, ours(ids).logits)
    with pytest.raises(InputError, match="compiled already"):
        starquant_fx.compile(quantized(full("odd"), Config(recipe)), recipe)


def test_it_is_saved_as_a_packed_checkpoint(full: Folder, tmp_path: Path) -> None:
    loaded = quantized(full("odd"), Config(small("star-w4a4"), calibration=texts("odd")))
    loaded.save_pretrained(tmp_path / "a")
    ids = masked_ids("odd", (2, 8), 0.5)
    again: Any = AutoModelForMaskedLM.from_pretrained(tmp_path / "a")
    for one in (again, starquant_fx.load(tmp_path / "a")):
        assert torch.equal(one(ids).logits, loaded(ids).logits)
    assert again.config.quantization_config.to_dict() == loaded.config.quantization_config.to_dict()


def test_a_dictionary_asks_too(full: Folder) -> None:
    asked = {"quant_method": "starquant", "recipe": "rtn-w4a4", "target": "reference"}
    loaded = quantized(full("odd"), asked)
    assert loaded.compiled.recipe.name == "rtn-w4a4"


def test_a_request_is_written_and_read() -> None:
    for config in (
        Config(),
        Config("rtn-w8a8", target="cpu", mask_token_id=7),
        Config(small("star-w4a4")),
    ):
        values = json.loads(json.dumps(config.to_dict()))
        again = Config.from_dict(values)
        assert again.to_dict() == values
        assert again.recipe == config.recipe
        assert (again.target, again.mask_token_id) == (config.target, config.mask_token_id)
        assert dict(config) == values
        assert json.loads(config.to_json_string()) == values
        assert "StarQuantConfig" in repr(config)
    made, unused = Config.from_dict({"quant_method": "starquant"}, return_unused_kwargs=True, a=1)
    assert (made.recipe, unused) == (None, {"a": 1})


def test_a_packed_checkpoints_is_read_strictly(packed: Folder) -> None:
    says = json.loads((packed("odd") / "config.json").read_text())["quantization_config"]
    config = AutoQuantizationConfig.from_pretrained(packed("odd"))
    assert isinstance(config, Config)
    assert config.to_dict() == Config.from_dict(config.to_dict()).to_dict() == says
    quantizer = AutoHfQuantizer.from_pretrained(packed("odd"))
    assert isinstance(quantizer, StarQuantQuantizer)
    assert quantizer.is_serializable()
    assert not quantizer.is_trainable
    for change in ({"bits": 4}, {"version": 2}, {"dtype": "int4"}, {"fingerprint": 1}):
        with pytest.raises(CheckpointError):
            Config.from_dict({**says, **change})


def test_a_misspelt_key_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'recipe'"):
        Config.from_dict({"quant_method": "starquant", "recipy": "rtn-w4a4"})
    with pytest.raises(RecipeError):
        Config("star-w9a9")


def test_the_target_of_a_packed_checkpoint_can_be_chosen(packed: Folder) -> None:
    loaded = quantized(packed("odd"), Config(target="reference"))
    assert loaded.compiled.report.target == "reference"
    saved = loaded.config.quantization_config.packed.target
    assert saved == starquant_fx.load(packed("odd")).report.target
    same = quantized(packed("odd"), Config(loaded.compiled.recipe))
    assert same.compiled.report.target == saved


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        (Config("rtn-w8a8"), "recipe"),
        (Config(calibration=["text"]), "calibration"),
        (Config(cache="cache"), "cache"),
        (Config(mask_token_id=3), "mask_token_id"),
    ],
)
def test_a_packed_checkpoint_is_not_quantized_again(asked: Any, where: str, packed: Folder) -> None:
    with pytest.raises(InputError) as caught:
        quantized(packed("odd"), asked)
    assert caught.value.where == f"quantization_config.{where}"


def test_other_methods_and_other_models_are_refused(full: Folder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not quantized by this method"):
        quantized(full("odd"), GPTQConfig(bits=4))
    BertForMaskedLM(BertConfig(**SHARED, intermediate_size=96)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="transformers' own is not quantized"):
        quantized(tmp_path, Config("rtn-w4a4"))


def test_what_compile_refuses_is_refused(full: Folder) -> None:
    with pytest.raises(StarQuantError, match="unknown target"):
        quantized(full("odd"), Config("rtn-w4a4", target="cpuu"))
    with pytest.raises(StarQuantError):
        quantized(full("odd"), Config(small("star-w4a4"), calibration=[]))
    assert MASK["odd"]
    with pytest.raises(StarQuantError):
        AutoModel.from_pretrained(full("odd"), quantization_config=Config(mask_token_id=10**6))
