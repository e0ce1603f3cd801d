"""What an export says about itself, in ``starquant.json`` and in the ONNX file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from starquant_fx import runtime
from starquant_fx.export.api import export_onnx
from starquant_fx.export.build import HEADS
from starquant_fx.runtime.metadata import FORMAT, VERSION, read_metadata
from tests.export.small import Exports, compiled
from tests.small_models import MASK


@pytest.fixture
def folder(exports: Exports) -> Path:
    return exports("odd", flavour="integer").folder


def test_the_runtime_reads_what_was_written(folder: Path) -> None:
    found = read_metadata(folder)
    assert found.flavour == "integer"
    assert found.recipe == "rtn-w8a8"
    assert (found.model_type, found.sampler) == ("llada", "llada")
    assert (found.vocab_size, found.mask_token_id, found.eos_token_id) == (61, MASK["odd"], 59)
    assert (found.max_length, found.head, found.opset) == (64, "logits", 21)
    assert (found.inputs, found.outputs) == (("input_ids",), HEADS["logits"])


def test_the_hashes_are_those_of_all_files(folder: Path) -> None:
    files = json.loads((folder / "starquant.json").read_text())["files"]
    assert set(files) == {p.name for p in folder.iterdir()} - {"starquant.json"}
    for name, digest in files.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_the_onnx_file_says_it_too(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    assert {p.key.removeprefix("starquant."): p.value for p in model.metadata_props} == {
        "format": FORMAT,
        "version": str(VERSION),
        "flavour": "integer",
        "head": "logits",
        "recipe": "rtn-w8a8",
        "mask_token_id": str(MASK["odd"]),
    }
    assert model.producer_name == "starquant-fx"


def test_the_onnx_file_names_no_path_of_this_machine(folder: Path) -> None:
    content = (folder / "model.onnx").read_bytes()
    for word in (b"stack_trace", b"pkg.torch", b".py", str(Path(__file__).parents[2]).encode()):
        assert word not in content


def test_inputs_and_outputs_are_named(exports: Exports) -> None:
    for kind, recipe, head, masked in (
        ("odd", "star-w8a8", "row-logits", True),
        ("bare-short", "star-w8a8", "tokens", False),
        ("odd", "rtn-w8a8", "logits", False),
    ):
        report = exports(kind, recipe, flavour="integer", head=head, attention_mask=masked)
        graph = onnx.load(report.folder / "model.onnx").graph
        rows, mask = ["rows"] * (head != "logits"), ["attention_mask"] * masked
        state = ["token_state"] * (kind == "bare-short")
        assert [i.name for i in graph.input] == ["input_ids", *mask, *state, *rows]
        assert tuple(o.name for o in graph.output) == HEADS[head]
        sizes = {d.dim_param for i in graph.input for d in i.type.tensor_type.shape.dim}
        assert sizes == {"batch", "length", *rows}
        found = read_metadata(report.folder)
        assert (found.mask_token_id is None) == (kind == "bare-short")


def test_a_quantized_head_keeps_the_name_of_its_output(exports: Exports) -> None:
    report = exports("odd", "rtn-w8a8[role:head=w4a8]", flavour="qdq", verify=True)
    assert runtime.load(report.folder).metadata.outputs == ("logits",)


@pytest.mark.usefixtures("built_once")
def test_the_tokenizer_is_beside_the_model(tmp_path: Path) -> None:
    own = Tokenizer(WordLevel({"zero": 0, "one": 1, "[MASK]": MASK["odd"]}, unk_token="zero"))
    for given in (own, SimpleNamespace(backend_tokenizer=own)):
        report = export_onnx(
            compiled("odd"), tmp_path / "a", tokenizer=given, verify=False, force=True
        )
        assert report.bytes["tokenizer.json"] == len(own.to_str().encode())
        loaded = runtime.load(report.folder)
        assert loaded.encode("one").tolist() == [[1]]


@pytest.mark.parametrize(
    ("value", "wanted"), [([7, 8], 7), (999, None), (-1, None), ([], None), (True, None), (0, 0)]
)
def test_end_tokens_are_ids_of_the_vocabulary(
    value: Any, wanted: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from starquant_fx.export import api

    one = compiled("odd")
    config = SimpleNamespace(**{**vars(one.config), "eos_token_id": value})
    monkeypatch.setattr(one, "config", config)
    assert api._token(one, "eos_token_id") == wanted
