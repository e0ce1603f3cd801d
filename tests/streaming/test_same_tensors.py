"""Block by block, a model is compiled to the tensors that it is compiled to whole, bit for bit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import starquant_fx
from starquant_fx.checkpoint.format import RUN_FILE
from starquant_fx.passes import Gptq
from starquant_fx.recipe import Recipe
from starquant_fx.recipes import get_recipe
from starquant_fx.report import Report
from tests.models import checkpoints
from tests.streaming.cases import IDS, recipe, stream, whole

RECIPES = (
    "rtn-w4a4",
    "star-w4a4",
    "quarot+tac+embed8-w4a4",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "star-w4a4[role:head=w8a8]",
            "dllmquant++-w4a8",
            "awq+lowrank-w4a16",
            "duquant+center-w4a4",
            "sgat-w8a4",
        )
    ),
)


def same(source: Path, target: Path, chosen: Recipe, calibrated: bool = True) -> Report:
    calibration = IDS if calibrated else None
    loaded = starquant_fx.load(stream(source, target, chosen, calibration=calibration))
    ours, right = loaded.tensors(), whole(source, chosen, calibrated).tensors()
    assert ours.keys() == right.keys()
    assert [name for name, tensor in right.items() if not torch.equal(ours[name], tensor)] == []
    return loaded.report


@pytest.mark.parametrize("name", RECIPES)
def test_every_kind_of_recipe(name: str, llada: Path, tmp_path: Path) -> None:
    report = same(llada, tmp_path / "a", recipe(name))
    right = whole(llada, recipe(name)).report
    blank: dict[str, Any] = {"seconds": (), "calibration": {}}
    assert dataclasses.replace(report, **blank) == dataclasses.replace(right, **blank)
    assert report.calibration["kept"] == right.calibration["kept"] == IDS.numel()
    assert "bytes" not in report.calibration


@pytest.mark.parametrize("name", ["rtn-w8a8", pytest.param("star-w4a4", marks=pytest.mark.slow)])
def test_dream(name: str, dream: Path, tmp_path: Path) -> None:
    same(dream, tmp_path / "a", recipe(name))


@pytest.mark.slow
@pytest.mark.parametrize(
    "ignore",
    [
        ("role:head", r"re:.*blocks\.0\..*"),
        ("role:head", r"re:.*blocks\.1\..*"),
        ("role:head", "role:o"),
        ("role:head", r"re:.*blocks\.0\.attn_out"),
    ],
)
def test_sites_that_are_left_alone(ignore: tuple[str, ...], llada: Path, tmp_path: Path) -> None:
    name = "quarot+lowrank-w4a4" if "role:o" in ignore else "star-w4a4"
    same(llada, tmp_path / "a", recipe(name, ignore))


def test_an_embedding_of_eight_bits_before_a_block_that_is_left_alone(
    llada: Path, tmp_path: Path
) -> None:
    same(llada, tmp_path / "a", recipe("rtn+embed8-w4a4", ("role:head", r"re:.*blocks\.0\..*")))


@pytest.mark.slow
def test_gptq_on_full_precision_inputs(llada: Path, tmp_path: Path) -> None:
    same(llada, tmp_path / "a", recipe("gptq-w4a4").replacing(Gptq(inputs="full")))


def test_calibrated_on_what_the_model_generates(llada: Path, tmp_path: Path) -> None:
    same(llada, tmp_path / "a", recipe("star-w4a4"), calibrated=False)


@pytest.mark.slow
def test_shipped_model_and_texts(tmp_path: Path) -> None:
    texts = ["Once upon a time there was a cat. It was a good cat."] * 4
    out = starquant_fx.compile_folder(
        "llada-tiny", tmp_path / "a", recipe("rtn-w8a8"), calibration=texts
    )
    model, tokenizer = starquant_fx.from_pretrained("llada-tiny")
    right = starquant_fx.compile(model, recipe("rtn-w8a8"), calibration=texts, tokenizer=tokenizer)
    assert starquant_fx.load(out).report.sites == right.report.sites
    assert (out / "tokenizer.json").is_file()
    assert "AutoTokenizer" in (out / "README.md").read_text()


def test_activations_that_do_not_fit_go_to_files(
    llada: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("starquant_fx.streaming.part.ACTIVATIONS", 10**12)
    chosen = recipe("star-w4a4")
    out = stream(llada, tmp_path / "a", chosen, memory_limit="1TB")
    facts = json.loads((out / RUN_FILE).read_bytes())
    assert facts["peak_spilled_bytes"] > IDS.numel() * (3 * 32 + 40) * 4
    ours, right = starquant_fx.load(out).tensors(), whole(llada, chosen).tensors()
    assert all(torch.equal(ours[name], tensor) for name, tensor in right.items())


def test_the_run_is_told_of(llada: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    out = stream(
        llada,
        tmp_path / "a",
        memory_limit="4GiB",
        progress=lambda done, count, record, left: told.append((done, count, record.name)),
    )
    blocks = [f"model.transformer.blocks.{i}" for i in range(2)]
    names = [*blocks, "model.transformer.ff_out"]
    assert told == [(i + 1, 3, name) for i, name in enumerate(names)]
    facts = json.loads((out / RUN_FILE).read_bytes())
    assert list(facts["seconds_by_part"]) == names
    assert facts["memory_limit_bytes"] == 4 * 1024**3
    assert 50_000_000 < facts["peak_resident_bytes"] < 4 * 1024**3
    assert facts["checkpoint_bytes"] < sum(f.stat().st_size for f in out.iterdir())
    assert "AutoTokenizer" not in (out / "README.md").read_text()
    assert {"fold-sgat", "hand on", "write"} < facts["seconds_by_pass"].keys()
    assert not (tmp_path / "a.unfinished").exists()


def test_the_recipe_in_the_checkpoint_is_the_one_given(llada: Path, tmp_path: Path) -> None:
    out = stream(llada, tmp_path / "a", get_recipe("rtn-w4a8"))
    assert starquant_fx.load(out).recipe == get_recipe("rtn-w4a8")


def test_weights_of_sixteen_bits_that_stay_in_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models above a size compute as they are stored, and their weights are maps of the files."""
    monkeypatch.setattr("starquant_fx.models.loading.SMALL", 0)
    config = checkpoints.llada_config()
    stored = {n: t.bfloat16() for n, t in checkpoints.random_llada(config).state_dict().items()}
    source = checkpoints.write(tmp_path / "source", config, stored, 2)
    same(source, tmp_path / "a", recipe("star-w4a4"))
    frame = starquant_fx.load(tmp_path / "a").frame
    assert {parameter.dtype for parameter in frame.parameters()} == {torch.bfloat16}
