"""Folders that are no export, are not whole, or were changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from starquant_fx import runtime
from starquant_fx.errors import CheckpointError, InputError
from starquant_fx.runtime.external_data import external_files
from starquant_fx.runtime.metadata import is_plain_name, read_metadata
from tests.runtime.exports import write_export, write_metadata
from tests.runtime.fakes import ArrayDenoiser


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return write_export(tmp_path / "export", ArrayDenoiser(), external=True)


def refused(folder: Any, **options: Any) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        runtime.load(folder, **options)
    error = caught.value
    assert error.where
    assert error.expected
    assert error.got
    assert error.hint
    return error


def change_metadata(folder: Path, **changed: Any) -> None:
    path = folder / "starquant.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changed))


def point_to(folder: Path, location: str) -> None:
    """Makes every external tensor of the model lie somewhere else, and the hashes right again."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    content = json.loads((folder / "starquant.json").read_text())
    del content["files"]
    write_metadata(folder, content)


def test_what_is_no_export_is_refused(tmp_path: Path, export: Path) -> None:
    assert refused(tmp_path / "nowhere").got == "no such folder"
    assert refused(tmp_path).got == "no starquant.json"
    assert refused(export / "model.onnx").got == "a file"
    assert "File name too long" in str(refused(tmp_path / ("a" * 300)).got)
    refused("a\0b")
    with pytest.raises(InputError, match="this is no folder"):
        runtime.load(None)  # type: ignore[arg-type]


BAD_KEYS: list[tuple[str, Any, str]] = [
    ("format", "onnx", "'starquant-onnx'"),
    ("version", 2, "got: 2"),
    ("version", None, "update starquant-fx"),
    ("version", True, "expected: 1"),
    ("flavour", "int3", "qdq | integer | nbits | float"),
    ("head", ["logits"], "logits | row-logits | tokens"),
    ("vocab_size", 0, "at least 1"),
    ("vocab_size", "12", "an integer"),
    ("mask_token_id", 12, "below 12"),
    ("mask_token_id", -1, "at least 0"),
    ("eos_token_id", 1.5, "got: 1.5"),
    ("max_length", False, "got: False"),
    ("opset", None, "an integer"),
    ("recipe", 3, "a text or null"),
    ("model_type", None, "a text"),
    ("sampler", "ddpm", "llada | dream"),
    ("sampler_defaults", [1], "an object"),
    ("inputs", ["attention_mask"], "input_ids"),
    ("inputs", ["input_ids", "pixels"], "input_ids"),
    ("inputs", ["input_ids", "rows"], "rows left out"),
    ("inputs", ["input_ids", "input_ids"], "names that differ"),
    ("inputs", "input_ids", "a list of names"),
    ("outputs", ["token"], "['logits'] for the head 'logits'"),
    ("files", {}, "an object with 'model.onnx'"),
    ("files", {"model.onnx": "0" * 63}, "a SHA-256"),
    ("files", {"model.onnx": "0" * 64, "../x": "0" * 64}, "files in the folder itself"),
]


@pytest.mark.parametrize(("key", "value", "message"), BAD_KEYS)
def test_bad_metadata_is_refused(export: Path, key: str, value: Any, message: str) -> None:
    change_metadata(export, **{key: value})
    error = refused(export)
    assert repr(key) in str(error)
    assert message in str(error)
    assert error.where == str(export / "starquant.json")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_metadata_that_is_no_object_is_refused(export: Path, content: bytes) -> None:
    (export / "starquant.json").write_bytes(content)
    refused(export)


def test_keys_of_later_exporters_are_ignored(export: Path) -> None:
    change_metadata(export, producer="x")
    assert read_metadata(export).head == "logits"


def test_an_unknown_default_of_the_sampler_is_named(export: Path) -> None:
    change_metadata(export, sampler_defaults={"top_p": 0.5})
    with pytest.raises(CheckpointError, match="unknown argument 'top_p'"):
        runtime.load(export).generate("one")


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "tokenizer.json"])
def test_a_changed_file_is_refused_unless_asked_not_to_look(export: Path, name: str) -> None:
    content = (export / name).read_bytes()
    changed = content.replace(b"denoiser", b"DENOISER") if name == "model.onnx" else content + b" "
    assert changed != content
    (export / name).write_bytes(changed)
    error = refused(export)
    assert "has changed" in str(error)
    assert error.where == str(export / name)
    assert runtime.load(export, check=False).encode("one").tolist() == [[1]]


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "tokenizer.json"])
def test_a_missing_file_is_named(export: Path, name: str) -> None:
    (export / name).unlink()
    assert refused(export).where == str(export / name)
    if name != "tokenizer.json":
        assert name in str(refused(export, check=False))


def outside(folder: Path) -> str:
    secret = folder.parent / "secret"
    secret.write_bytes((folder / "model.onnx.data").read_bytes())
    return str(secret)


@pytest.mark.parametrize(
    "location",
    [
        lambda folder: "../secret",
        outside,
        lambda folder: "./../secret",
        lambda folder: "..\\secret",
        lambda folder: "tokenizer.json/../../secret",
        lambda folder: "",
        lambda folder: "other.data",
    ],
)
@pytest.mark.parametrize("check", [True, False])
def test_data_outside_of_the_export_is_refused(
    export: Path, location: Callable[[Path], str], check: bool
) -> None:
    """Whoever changes the model can make its hash right too."""
    outside(export)
    point_to(export, location(export))
    assert "not part of the export" in str(refused(export, check=check))


def test_data_that_is_too_short_is_refused(export: Path) -> None:
    data = export / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-8])
    assert "onnxruntime cannot load" in str(refused(export, check=False))


@pytest.mark.parametrize(
    "content", [b"", b"rubbish" * 9, b"\x08", b"\x3a\x05ab", b"\xff" * 40, b"\x0d\x01", b"\x0f"]
)
def test_a_model_that_is_no_onnx_file_is_refused(export: Path, content: bytes) -> None:
    (export / "model.onnx").write_bytes(content)
    error = refused(export, check=False)
    assert error.where == str(export / "model.onnx")


def test_a_cut_model_is_refused(export: Path) -> None:
    whole = (export / "model.onnx").read_bytes()
    for size in (1, len(whole) // 2, len(whole) - 1):
        (export / "model.onnx").write_bytes(whole[:size])
        refused(export, check=False)


def test_other_inputs_than_the_metadata_says_are_refused(export: Path, tmp_path: Path) -> None:
    change_metadata(export, inputs=["input_ids"])
    assert "other inputs" in str(refused(export))
    folder = write_export(tmp_path / "tokens", ArrayDenoiser(), head="tokens")
    change_metadata(folder, head="row-logits", outputs=["logits"])
    assert "other outputs" in str(refused(folder))


def test_an_input_of_another_type_is_refused(export: Path) -> None:
    model = onnx.load(export / "model.onnx", load_external_data=False)
    model.graph.input[1].type.tensor_type.elem_type = TensorProto.INT32
    (export / "model.onnx").write_bytes(model.SerializeToString())
    assert "attention_mask is not that of an export" in str(refused(export, check=False))


def test_a_broken_tokenizer_is_named(export: Path) -> None:
    (export / "tokenizer.json").write_text("{}")
    loaded = runtime.load(export, check=False)
    with pytest.raises(CheckpointError, match="tokenizer cannot be read"):
        loaded.encode("one")


def test_every_place_of_a_tensor_is_looked_at(tmp_path: Path) -> None:
    """Initializers, attributes, subgraphs, sparse tensors and functions."""

    def tensor(location: str) -> TensorProto:
        made = TensorProto(name=location, data_type=TensorProto.FLOAT, dims=[1])
        made.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", "4")):
            made.external_data.add(key=key, value=value)
        return made

    def constant(location: str) -> onnx.NodeProto:
        return helper.make_node("Constant", [], ["y"], value=tensor(location))

    inner = helper.make_graph([constant("subgraph")], "inner", [], [], [tensor("inner")])
    branch = helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner)
    graph = helper.make_graph([constant("attribute"), branch], "g", [], [], [tensor("initializer")])
    sparse = graph.sparse_initializer.add()
    sparse.values.CopyFrom(tensor("values"))
    sparse.indices.CopyFrom(tensor("indices"))
    function = helper.make_function("d", "f", [], ["y"], [constant("function")], [])
    model = helper.make_model(graph, functions=[function])
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert external_files(tmp_path / "model.onnx") == {
        *("attribute", "function", "indices", "initializer", "inner", "subgraph", "values")
    }


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\\b", "C:a", "a/", "a\0"])
def test_a_name_that_is_a_path_is_not_plain(name: str) -> None:
    assert not is_plain_name(name)
    assert is_plain_name("model.onnx.data")
