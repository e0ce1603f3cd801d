"""``save_pretrained`` writes folders that both loaders read, whole or not at all, with a card of measured figures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

import starquant_fx
from starquant_fx.checkpoint.card import model_card
from starquant_fx.checkpoint.format import read_report
from starquant_fx.errors import CheckpointError, InputError, StarQuantError
from starquant_fx.models.locate import PRETRAINED
from starquant_fx.sizes import shown_size
from tests.compile_cases import compiled
from tests.small_models import masked_ids

Folder = Callable[[str], Path]
CONTENT = ("config.json", "starquant_report.json", "README.md")


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t for p in folder.glob("*.safetensors") for n, t in load_file(p).items()}


def same_tensors(one: Path, other: Path) -> bool:
    first, second = tensors(one), tensors(other)
    return first.keys() == second.keys() and all(
        torch.equal(t, second[n]) for n, t in first.items()
    )


@pytest.mark.parametrize("kind", ["llada", "dream"])
def test_packed_load_save_load_save(kind: str, packed: Folder, tmp_path: Path) -> None:
    loaded: Any = AutoModelForMaskedLM.from_pretrained(packed(kind))
    loaded.save_pretrained(tmp_path / "a")
    again: Any = AutoModelForMaskedLM.from_pretrained(tmp_path / "a")
    again.save_pretrained(tmp_path / "b")
    ids = masked_ids(kind, (2, 7), 0.5)
    wanted = compiled(kind, "rtn-w4a4")(ids).logits
    for folder in (packed(kind), tmp_path / "a", tmp_path / "b"):
        assert same_tensors(folder, packed(kind))
        for name in CONTENT:
            assert (folder / name).read_bytes() == (packed(kind) / name).read_bytes()
    assert torch.equal(again(ids).logits, wanted)
    assert torch.equal(starquant_fx.load(tmp_path / "b")(ids).logits, wanted)


@pytest.mark.parametrize(("size", "shards"), [(None, 1), ("10KB", 3), (20_000, 2)])
def test_full_precision_load_save_load(
    size: Any, shards: int, full: Folder, tmp_path: Path
) -> None:
    loaded: Any = AutoModelForMaskedLM.from_pretrained(full("odd"))
    loaded.save_pretrained(tmp_path / "a", max_shard_size=size)
    assert len(list((tmp_path / "a").glob("*.safetensors"))) >= shards
    assert same_tensors(tmp_path / "a", full("odd"))
    ids = masked_ids("odd", (2, 7), 0.5)
    again: Any = AutoModelForMaskedLM.from_pretrained(tmp_path / "a")
    ours, _ = starquant_fx.from_pretrained(tmp_path / "a")
    assert torch.equal(again(ids).logits, loaded(ids).logits)
    assert torch.equal(ours(ids).logits, loaded(ids).logits)


def test_another_dtype_is_what_is_saved(full: Folder, tmp_path: Path) -> None:
    loaded: Any = AutoModelForMaskedLM.from_pretrained(full("odd"), dtype="bfloat16")
    loaded.save_pretrained(tmp_path / "a")
    assert {t.dtype for t in tensors(tmp_path / "a").values()} == {torch.bfloat16}
    again: Any = AutoModelForMaskedLM.from_pretrained(tmp_path / "a", dtype="auto")
    assert again.dtype == torch.bfloat16


def test_the_tokenizer_goes_along_or_comes_later(packed: Folder, tmp_path: Path) -> None:
    loaded: Any = AutoModelForMaskedLM.from_pretrained(packed("odd"))
    tokenizer: Any = AutoTokenizer.from_pretrained(PRETRAINED / "llada-tiny")
    loaded.save_pretrained(tmp_path / "a", tokenizer=tokenizer)
    loaded.save_pretrained(tmp_path / "b")
    tokenizer.save_pretrained(tmp_path / "b")
    for name in "ab":
        starquant_fx.load(tmp_path / name)
        again: Any = AutoTokenizer.from_pretrained(tmp_path / name)
        assert again("Once upon")["input_ids"] == tokenizer("Once upon")["input_ids"]


def test_shards_by_their_size_in_words(packed: Folder, tmp_path: Path) -> None:
    loaded: Any = AutoModelForMaskedLM.from_pretrained(packed("odd"))
    for size, more in (("4KB", True), ("4.5 KiB", True), ("1 GB", False), (10**9, False)):
        loaded.save_pretrained(tmp_path / "a", max_shard_size=size, force=(tmp_path / "a").exists())
        assert (len(list((tmp_path / "a").glob("*.safetensors"))) > 1) is more
    unusable: tuple[Any, ...] = ("5 bananas", "GB", -1, 0, True, 1.5)
    for one in unusable:
        with pytest.raises(InputError) as caught:
            loaded.save_pretrained(tmp_path / "b", max_shard_size=one)
        assert caught.value.where == "max_shard_size"
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("kind", ["packed", "full"])
def test_nothing_foreign_is_replaced(
    kind: str, packed: Folder, full: Folder, tmp_path: Path
) -> None:
    source, other = packed("odd"), full("odd")
    source, other = (source, other) if kind == "packed" else (other, source)
    loaded: Any = AutoModelForMaskedLM.from_pretrained(source)
    theirs: Any = AutoModelForMaskedLM.from_pretrained(other)
    mine, notes, model = tmp_path / "mine", tmp_path / "notes", tmp_path / "model"
    loaded.save_pretrained(mine)
    notes.mkdir()
    (notes / "diary.txt").write_text("dear diary")
    theirs.save_pretrained(model)
    for folder, force in ((mine, False), (notes, False), (notes, True), (model, True)):
        before = {p.name: p.read_bytes() for p in folder.iterdir()}
        with pytest.raises(CheckpointError):
            loaded.save_pretrained(folder, force=force)
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    loaded.save_pretrained(mine, force=True)
    AutoModelForMaskedLM.from_pretrained(mine)


def test_an_empty_folder_that_is_there(packed: Folder, tmp_path: Path) -> None:
    AutoModelForMaskedLM.from_pretrained(packed("odd")).save_pretrained(tmp_path)
    starquant_fx.load(tmp_path)


def test_other_processes_write_nothing(packed: Folder, tmp_path: Path) -> None:
    loaded: Any = AutoModelForMaskedLM.from_pretrained(packed("odd"))
    loaded.save_pretrained(tmp_path / "a", is_main_process=False)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"safe_serialization": False},
        {"state_dict": {}},
        {"variant": "fp16"},
        {"distributed_checkpoint": True},
        {"max_shard_sice": "5GB"},
        {"commit_message": "without an upload"},
        {"repo_id": "me/model"},
    ],
)
def test_options_that_are_not_honoured(
    options: dict[str, Any], packed: Folder, full: Folder, tmp_path: Path
) -> None:
    for folder in (packed("odd"), full("odd")):
        loaded: Any = AutoModelForMaskedLM.from_pretrained(folder)
        with pytest.raises(InputError) as caught:
            loaded.save_pretrained(tmp_path / "a", **options)
        assert next(iter(options)) in str(caught.value.where)
        assert not (tmp_path / "a").exists()


def split(card: str) -> tuple[dict[str, Any], str]:
    _, header, body = card.split("---\n", 2)
    front: dict[str, Any] = yaml.safe_load(header)
    return front, body


def test_the_card_has_the_figures_of_the_report(tmp_path: Path) -> None:
    folder = compiled("llada", "star-w4a4").save(tmp_path / "a", base_model="GSAI-ML/LLaDA-8B-Base")
    front, body = split((folder / "README.md").read_text())
    report = read_report(folder)
    assert front["library_name"] == "starquant-fx"
    assert front["base_model"] == "GSAI-ML/LLaDA-8B-Base"
    assert {"starquant", "llada"} <= set(front["tags"])
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    errors = [row.error for row in report.sites if row.error is not None]
    assert errors
    for figure in (
        f"{shown_size(report.bytes_before)} → {shown_size(report.bytes_after)} (",
        f"| {shown_size(index['metadata']['total_size'])} |",
        f"| sites | {len(report.sites)}: ",
        f"largest {max(errors):.2g}",
        f"{report.calibration['sequences']:,} sequences, {report.calibration['tokens']:,} tokens",
    ):
        assert figure in body
    assert len(re.findall(r"^- .*: ", body, re.MULTILINE)) == len(report.unquantized)
    for call in ("AutoModelForMaskedLM.from_pretrained", "starquant_fx.load"):
        assert call in body


def test_the_card_names_a_tokenizer_only_if_the_folder_has_one(tmp_path: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(PRETRAINED / "llada-tiny")
    one = compiled("odd", "rtn-w4a4")
    for name, given in (("with", tokenizer), ("without", None)):
        _, body = split((one.save(tmp_path / name, tokenizer=given) / "README.md").read_text())
        assert ("AutoTokenizer" in body) is (given is not None)
        code = body.split("```python\n")[1].split("```")[0]
        compile(code, name, "exec")
        assert "starquant_fx" in code


def test_what_was_not_measured_is_not_told(packed: Folder) -> None:
    front, body = split((packed("odd") / "README.md").read_text())
    assert "base_model" not in front
    row = next(line for line in body.splitlines() if line.startswith("| error of a site"))
    measured = any(one.error is not None for one in read_report(packed("odd")).sites)
    assert ("not measured" in row) is not measured


def test_a_card_that_was_edited_is_no_damage(packed: Folder, tmp_path: Path) -> None:
    AutoModelForMaskedLM.from_pretrained(packed("odd")).save_pretrained(tmp_path / "a")
    (tmp_path / "a" / "README.md").write_text("# mine\n")
    starquant_fx.load(tmp_path / "a")
    (tmp_path / "a" / "README.md").unlink()
    starquant_fx.load(tmp_path / "a")


def test_nothing_of_a_report_becomes_markup(packed: Folder) -> None:
    """Names of recipes, notes and versions come from files that anybody may have written."""
    evil = "a\n---\n| x | <script>alert(1)</script> [y](http://z) `c` \x1b[31m **b**"
    loaded = starquant_fx.load(packed("odd"))
    from starquant_fx.checkpoint.writing import quantization_of

    report = loaded.report
    values = {**report.__dict__, "recipe": evil, "target": evil, "notes": (evil,)}
    values["unquantized"] = ((evil, evil),)
    says = quantization_of(loaded)
    forged = type(says)(**{**says.__dict__, "package_version": evil})
    plain = model_card(report, "llada", says, 1)
    card = model_card(type(report)(**values), 'x"\n- y', forged, 1, evil, (evil,))
    front, body = split(card)
    assert set(front) == set(split(plain)[0])
    assert front["tags"][-1] == evil
    assert "<script" not in body
    assert not re.search(r"(?<!\\)\[y|(?<!\\)\*\*|\x1b|://", body)
    assert body.count("\n| ") == split(plain)[1].count("\n| ")


def test_tags_are_texts(tmp_path: Path) -> None:
    one = compiled("odd", "rtn-w4a4")
    front, _ = split((one.save(tmp_path / "a", tags="german") / "README.md").read_text())
    assert front["tags"][-1] == "german"
    with pytest.raises(StarQuantError, match="tags"):
        one.save(tmp_path / "b", tags=[1])
