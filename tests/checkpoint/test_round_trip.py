"""A checkpoint that is loaded computes the same bits as the model that was saved."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import starquant_fx
from starquant_fx.checkpoint.reading import load
from starquant_fx.compiled import CompiledModel
from starquant_fx.models.tokenizer import load_tokenizer
from tests import compile_cases, small_models
from tests.compile_cases import compiled, fresh, texts
from tests.small_models import MASK, masked_ids

EVERY_KIND = [(k, r) for k in ("llada", "dream", "odd") for r in ("star-w4a4", "rtn-w8a8")]
OTHERS = (
    *("duquant-w4a8", "smoothquant-w8a8", "awq-w4a16", "quarot+center-w4a4", "freeact-w4a4"),
    *("dllmquant++-w4a4", "star-paper-w3a5", "star-w4a4[role:head=w8a8]", "rtn+embed8-w4a4"),
)


def same(saved: CompiledModel, loaded: CompiledModel, kind: str) -> None:
    """Compares everything that can be asked of two compiled models."""
    for shape, ratio in (((1, 7), 0.5), ((3, 12), 0.9)):
        ids = masked_ids(kind, shape, ratio)
        assert torch.equal(saved(ids).logits, loaded(ids).logits)
    mine, theirs = saved.tensors(), loaded.tensors()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())
    assert loaded.report == saved.report
    assert loaded.recipe == saved.recipe
    assert loaded.fingerprint == saved.fingerprint
    assert loaded.program.mask_token_id == saved.program.mask_token_id


@pytest.mark.parametrize(("kind", "recipe"), EVERY_KIND)
def test_the_same_bits_for_every_kind(kind: str, recipe: str, tmp_path: Path) -> None:
    saved = compiled(kind, recipe)
    same(saved, load(saved.save(tmp_path / "a")), kind)


@pytest.mark.parametrize("recipe", OTHERS)
def test_the_same_bits_for_every_kind_of_pass(recipe: str, tmp_path: Path) -> None:
    saved = compiled("odd", recipe)
    same(saved, load(saved.save(tmp_path / "a")), "odd")


def test_saving_what_was_loaded_gives_the_same_files(sound: Path, tmp_path: Path) -> None:
    again = load(sound).save(tmp_path / "b", shard_bytes=10**9)
    first = {n: t for p in sound.glob("*.safetensors") for n, t in load_file(p).items()}
    (path,) = again.glob("*.safetensors")
    second = load_file(path)
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    for name in ("config.json", "starquant_report.json"):
        assert json.loads((sound / name).read_text()) == json.loads((again / name).read_text())


def test_other_arguments_are_captured_without_the_original(tmp_path: Path) -> None:
    saved = compiled("llada", "star-w4a4")
    loaded = load(saved.save(tmp_path / "a"))
    ids, keep = masked_ids("llada", (2, 8), 0.5), torch.ones(2, 8, dtype=torch.long)
    keep[0, :3] = 0
    assert torch.equal(saved(ids, keep).logits, loaded(ids, keep).logits)
    rows = torch.tensor([1, 9, 14])
    assert torch.equal(saved.logits_at(rows, ids), loaded.logits_at(rows, ids))


@pytest.mark.parametrize("kind", ["llada", "dream"])
def test_generation_is_the_same(kind: str, tmp_path: Path) -> None:
    saved = compiled(kind, "rtn-w8a8")
    loaded = starquant_fx.load(saved.save(tmp_path / "a"))
    prompt = masked_ids(kind, (1, 5), 0.0)
    options: dict[str, Any] = {"steps": 8}
    options |= {"gen_length": 8, "block_length": 8} if kind == "llada" else {"max_new_tokens": 8}
    ids = []
    for one in (saved, loaded):
        torch.manual_seed(0)  # Dream unmasks in a random order
        ids.append(one.generate(prompt, **options))
    assert torch.equal(*ids)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_float_types(dtype: torch.dtype, tmp_path: Path) -> None:
    saved = starquant_fx.compile(
        copy.deepcopy(small_models.model("odd")).to(dtype),
        compile_cases.small("rtn-w4a4"),
        calibration=texts("odd"),
        mask_token_id=MASK["odd"],
    )
    loaded = load(saved.save(tmp_path / "a"))
    same(saved, loaded, "odd")
    assert loaded(masked_ids("odd", (1, 4), 0.5)).logits.dtype == dtype


def test_a_token_state_that_is_an_input(tmp_path: Path) -> None:
    saved = fresh("odd", "star-w4a4", token_state_input=True, mask_token_id=None)
    loaded = load(saved.save(tmp_path / "a"))
    ids = masked_ids("odd", (2, 6), 0.0)
    state = (torch.arange(12).view(2, 6) % 3 == 0).long()
    assert torch.equal(saved(ids, token_state=state).logits, loaded(ids, token_state=state).logits)


def test_the_target_that_is_asked_for(sound: Path) -> None:
    loaded = load(sound, target="reference")
    assert loaded.report.target == "reference"
    original = compiled("odd", "rtn-w4a4")
    assert loaded.report.sites == original.report.sites


def test_shards_are_as_large_as_they_may_be(sound: Path) -> None:
    names = sorted(p.name for p in sound.iterdir())
    shards = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    index = "model.safetensors.index.json"
    assert names == ["README.md", "config.json", *shards, index, "starquant_report.json"]
    content = json.loads((sound / index).read_text())
    held = {shard: load_file(sound / shard) for shard in shards}
    assert content["weight_map"] == {n: shard for shard, one in held.items() for n in one}
    size = sum(t.nbytes for one in held.values() for t in one.values())
    assert content["metadata"]["total_size"] == size
    assert all(sum(t.nbytes for t in one.values()) <= size // 3 + 2000 for one in held.values())


def test_a_tensor_larger_than_a_shard_has_one_of_its_own(tmp_path: Path) -> None:
    saved = compiled("odd", "rtn-w4a4")
    folder = saved.save(tmp_path / "a", shard_bytes=1)
    assert len(list(folder.glob("*.safetensors"))) == len(saved.tensors())
    same(saved, load(folder), "odd")


def test_config_is_the_models_with_what_the_quantization_is(tmp_path: Path) -> None:
    saved = compiled("llada", "star-w4a4")
    folder = saved.save(tmp_path / "a")
    config = json.loads((folder / "config.json").read_text())
    quantization = config.pop("quantization_config")
    published = saved.config.to_dict()
    del published["auto_map"]  # names code that is not in the folder
    assert {k: v for k, v in config.items() if k in published} == published
    assert "auto_map" not in config
    assert quantization["quant_method"] == "starquant"
    assert quantization["version"] == 1
    assert quantization["recipe"]["method"] == "star"
    assert quantization["mask_token_id"] == MASK["llada"]
    assert quantization["dtype"] == "float32"
    assert load(folder).config == type(saved.config).from_dict(published)


def test_the_tokenizer_goes_along(tmp_path: Path) -> None:
    _, tokenizer = starquant_fx.from_pretrained("llada-tiny")
    folder = compiled("odd", "rtn-w4a4").save(tmp_path / "a", tokenizer=tokenizer)
    again = load_tokenizer(folder, "llada")
    assert again is not None
    assert tokenizer is not None
    assert again("Once upon a time")["input_ids"] == tokenizer("Once upon a time")["input_ids"]
    assert again.mask_token_id == tokenizer.mask_token_id
    load(folder)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no list of maps")
def test_tensors_stay_mapped(tmp_path: Path) -> None:
    """A map of a file that nothing was written to takes no memory of the process's own."""
    folder = compiled("odd", "rtn-w4a4").save(tmp_path / "a")
    loaded = load(folder)
    loaded(masked_ids("odd", (1, 6), 0.5))
    places = [tensor.data_ptr() for tensor in loaded.tensors().values()]
    private = maps_of(folder)
    assert private
    for place in places:
        ((_, dirty),) = [(span, d) for span, d in private.items() if span[0] <= place < span[1]]
        assert dirty == 0


def maps_of(folder: Path) -> dict[tuple[int, int], int]:
    """Private bytes of the maps of a folder's files, by their addresses."""
    found: dict[tuple[int, int], int] = {}
    span = None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            low, high = (int(bound, 16) for bound in first.split("-"))
            span = (low, high) if rest[-1].startswith(str(folder)) else None
        elif span is not None and first == "Private_Dirty:":
            found[span] = int(rest[0]) * 1024
    return found


def test_hashes_are_not_computed_unless_asked(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("starquant_fx.checkpoint.shards.hashlib", None)
    same(compiled("odd", "rtn-w4a4"), load(sound, check=False), "odd")
