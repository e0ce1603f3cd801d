"""What is written is read back, whatever it is: properties over random tensors, shards, recipes and models."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

import starquant_fx
from starquant_fx.artifact_checks import STORED
from starquant_fx.checkpoint.format import Hashes, Index, shard_name
from starquant_fx.checkpoint.reading import load
from starquant_fx.checkpoint.shards import Shards, plan, write_shard
from starquant_fx.models.llada import LladaConfig, LladaModel
from starquant_fx.recipe import CalibrationOptions
from starquant_fx.recipes import get_recipe
from tests.compile_cases import compiled
from tests.small_models import randomize

CPU = torch.device("cpu")
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name != "__metadata__"
)


@st.composite
def some_tensors(draw: st.DrawFn) -> dict[str, Tensor]:
    """Tensors of any stored type and up to four dimensions, some without values, some not contiguous."""
    tensors = {}
    for name in draw(st.lists(NAMES, min_size=1, max_size=6, unique=True)):
        dtype = draw(st.sampled_from(list(STORED)))
        shape = draw(st.lists(st.integers(0, 5), max_size=4))
        random = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
        if dtype.is_floating_point:
            tensor = torch.randn(shape, generator=random).to(dtype)
        else:
            tensor = torch.randint(0, 2, shape, generator=random).to(dtype)
        tensors[name] = tensor.mT if tensor.dim() > 1 and draw(st.booleans()) else tensor
    return tensors


@settings(max_examples=150, deadline=None)
@given(tensors=some_tensors(), shard_bytes=st.integers(1, 300))
def test_shards(tensors: dict[str, Tensor], shard_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        planned = plan(tensors, shard_bytes)
        assert [name for names in planned for name in names] == list(tensors)
        headers: dict[str, str] = {}
        hashes: dict[str, str] = {}
        where: dict[str, str] = {}
        for number, names in enumerate(planned, 1):
            shard = shard_name(number, len(planned))
            held = {name: tensors[name] for name in names}
            assert len(names) == 1 or sum(t.nbytes for t in held.values()) <= shard_bytes
            headers[shard], found = write_shard(folder / shard, held)
            hashes |= found
            where |= dict.fromkeys(names, shard)
        size = sum(tensor.nbytes for tensor in tensors.values())
        shards = Shards(folder, Index(Hashes(size, hashes, headers, {}), where), check=True)
        assert shards.headers.keys() == tensors.keys()
        for name, tensor in tensors.items():
            read = shards.read(name, CPU)
            assert read.dtype == tensor.dtype
            assert torch.equal(read, tensor)


def test_what_passes_make_is_laid_out_as_files_keep_it() -> None:
    """A product with a matrix that is stored column by column rounds differently."""
    for name in ("freeact-w4a4", "sgat-w4a4", "duquant-w4a8"):
        for tensor in compiled("odd", name).tensors().values():
            assert tensor.is_contiguous()


WITHOUT_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
METHODS = ("rtn", "smoothquant", "quarot", "duquant", "freeact", "sgat+tac", "rtn+lowrank")
"""Methods whose passes take no time to fit."""


@st.composite
def some_models(draw: st.DrawFn) -> LladaModel:
    """Models of one layer, of any sizes that fit each other."""
    kv_heads = draw(st.integers(1, 2))
    heads = kv_heads * draw(st.integers(1, 2))
    rows = draw(st.integers(20, 40))
    config = LladaConfig(
        d_model=heads * 2 * draw(st.integers(2, 5)),
        n_heads=heads,
        n_kv_heads=kv_heads,
        n_layers=1,
        mlp_hidden_size=draw(st.integers(8, 40)),
        vocab_size=rows,
        embedding_size=rows,
        mask_token_id=rows - 1,
        eos_token_id=rows - 2,
        max_sequence_length=32,
    )
    return randomize(LladaModel(config), seed=draw(st.integers(0, 100))).eval()  # type: ignore[return-value]


def check_round_trip(model: LladaModel, recipe: str, shard_bytes: int) -> None:
    few = CalibrationOptions(samples=4, length=8, rollout_steps=0)
    chosen = dataclasses.replace(get_recipe(recipe), calibration=few)
    texts = torch.arange(64).view(8, 8) % (model.config.vocab_size - 3)
    saved = starquant_fx.compile(model, chosen, calibration=texts)
    ids = texts[:2].clone()
    ids[:, ::3] = model.config.mask_token_id
    place = Path(tempfile.mkdtemp())
    try:
        folder = saved.save(place / "a", shard_bytes=shard_bytes)
        loaded = load(folder)
        assert torch.equal(saved(ids).logits, loaded(ids).logits)
        again = loaded.save(place / "b", shard_bytes=shard_bytes)
        names = {file.name for file in folder.iterdir()}
        assert names == {file.name for file in again.iterdir()}
        for name in names:
            one: Any = (folder / name).read_bytes()
            other: Any = (again / name).read_bytes()
            if name.endswith(".json"):
                one, other = parsed(one), parsed(other)
            assert one == other, name
    finally:
        shutil.rmtree(place)


def parsed(content: bytes) -> Any:
    """JSON without the hashes of other JSON files, whose keys may come in another order."""
    values = json.loads(content)
    values.get("metadata", {}).pop("file_sha256", None)
    return values


RECIPES = st.tuples(
    st.sampled_from(METHODS), st.sampled_from((2, 3, 4, 5, 8, 16)), st.sampled_from((4, 6, 8, 16))
).map(lambda parts: f"{parts[0]}-w{parts[1]}a{parts[2]}")


@settings(max_examples=4, deadline=None, derandomize=True, phases=WITHOUT_SHRINKING)
@given(model=some_models(), recipe=RECIPES, shard_bytes=st.sampled_from((1, 3000, 10**9)))
def test_models_and_recipes(model: LladaModel, recipe: str, shard_bytes: int) -> None:
    check_round_trip(model, recipe, shard_bytes)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, phases=WITHOUT_SHRINKING)
@given(model=some_models(), recipe=RECIPES, shard_bytes=st.sampled_from((1, 3000, 10**9)))
def test_many_models_and_recipes(model: LladaModel, recipe: str, shard_bytes: int) -> None:
    check_round_trip(model, recipe, shard_bytes)
