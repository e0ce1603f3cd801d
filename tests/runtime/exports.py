"""Small exported folders, written by hand: the denoiser of ``fakes`` as an ONNX file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, save_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from tests.runtime.fakes import EOS, EOT, LIMIT, MASK, VOCABULARY, ArrayDenoiser

WORDS = {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
WORDS |= {"seven": 7, "eight": 8, "<eot>": EOT, "[MASK]": MASK, "<eos>": EOS}


def write_export(
    folder: Path,
    model: ArrayDenoiser,
    *,
    head: str = "logits",
    masked: bool = True,
    external: bool = False,
    batch: int | str = "B",
    state: bool = False,
    **changed: Any,
) -> Path:
    """Writes a folder as the exporter does.

    Args:
        folder: Where; made here.
        model: What it computes.
        head: See the metadata.
        masked: With an attention mask, for Dream also positions.
        external: With the tables in ``model.onnx.data``.
        batch: The size of the batch, or a name for any.
        state: With ``token_state``, which is added to the logits of token 0.
        **changed: Keys of the metadata.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dream = model.config.model_type == "Dream"
    graph_nodes, inputs = _network(dream, masked, batch, state)
    name, outputs = "logits", ["logits"]
    if head == "logits":
        infos = [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, "L", VOCABULARY])
        ]
    else:
        inputs.append(helper.make_tensor_value_info("rows", TensorProto.INT64, ["R"]))
        name = "all"
        graph_nodes += [
            helper.make_node("Reshape", ["all", "flat_shape"], ["flat"]),
            helper.make_node("Gather", ["flat", "rows"], ["logits"]),
        ]
        infos = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["R", VOCABULARY])]
    if head == "tokens":
        outputs = ["token", "confidence"]
        graph_nodes += [
            helper.make_node("ArgMax", ["logits"], ["token"], axis=1, keepdims=0),
            helper.make_node("Softmax", ["logits"], ["chances"]),
            helper.make_node("ReduceMax", ["chances", "last"], ["confidence"], keepdims=0),
        ]
        infos = [
            helper.make_tensor_value_info("token", TensorProto.INT64, ["R"]),
            helper.make_tensor_value_info("confidence", TensorProto.FLOAT, ["R"]),
        ]
    graph_nodes[_last(graph_nodes)].output[0] = name
    tables: dict[str, NDArray[Any]] = {
        "table": model.table.reshape(-1, VOCABULARY),
        "context": model.context,
        "zero": np.array(0),
        "one": np.array(1),
        "columns": np.array([1]),
        "vocabulary": np.array(VOCABULARY),
        "first": np.eye(VOCABULARY, dtype=np.float32)[:1],
        "flat_shape": np.array([-1, VOCABULARY]),
        "last": np.array([1]),
    }
    weights = [numpy_helper.from_array(value, key) for key, value in tables.items()]
    graph = helper.make_graph(graph_nodes, "denoiser", inputs, infos, weights)
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (folder / "model.onnx.data").unlink(missing_ok=True)
    save_model(
        built,
        str(folder / "model.onnx"),
        save_as_external_data=external,
        location="model.onnx.data",
        size_threshold=256,
    )
    write_tokenizer(folder)
    content = {
        "format": "starquant-onnx",
        "version": 1,
        "flavour": "float",
        "opset": 21,
        "recipe": None,
        "model_type": model.config.model_type,
        "mask_token_id": None if state else MASK,
        "vocab_size": VOCABULARY,
        "max_length": LIMIT,
        "eos_token_id": EOS,
        "eot_token_id": EOT,
        "head": head,
        "inputs": [each.name for each in inputs],
        "outputs": outputs,
        "sampler": "dream" if dream else "llada",
        "sampler_defaults": {},
        **changed,
    }
    write_metadata(folder, content)
    return folder


def write_metadata(folder: Path, content: dict[str, Any]) -> None:
    """Writes ``starquant.json`` with the hashes of the files that are there."""
    names = ("model.onnx", "model.onnx.data", "tokenizer.json")
    files = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in names
        if (folder / name).is_file()
    }
    (folder / "starquant.json").write_text(json.dumps({"files": files, **content}))


def write_tokenizer(folder: Path) -> None:
    """Writes a tokenizer of words."""
    tokenizer = Tokenizer(WordLevel(WORDS, unk_token="zero"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens(["<eot>", "[MASK]", "<eos>"])
    tokenizer.save(str(folder / "tokenizer.json"))


def _last(nodes: list[Any]) -> int:
    return next(i for i, node in enumerate(nodes) if node.output[0] == "network")


def _network(
    dream: bool, masked: bool, batch: int | str, state: bool
) -> tuple[list[Any], list[Any]]:
    """Nodes from the inputs to [B, L, vocab], and the inputs."""
    shape = [batch, "L"]
    integers = TensorProto.INT64
    inputs = [helper.make_tensor_value_info("input_ids", integers, shape)]
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["length"], start=1),
        helper.make_node("Squeeze", ["length"], ["scalar"]),
        helper.make_node("Range", ["zero", "scalar", "one"], ["counted"]),
    ]
    keep, positions = None, "counted"
    if masked:
        kind = TensorProto.BOOL if dream else integers
        form = [batch, 1, "L", "L"] if dream else shape
        inputs.append(helper.make_tensor_value_info("attention_mask", kind, form))
        keep = helper.make_node("Cast", ["attention_mask"], ["numbers"], to=TensorProto.FLOAT)
        if dream:
            inputs.append(helper.make_tensor_value_info("position_ids", integers, shape))
            positions = "position_ids"
    nodes += [
        helper.make_node("Mul", [positions, "vocabulary"], ["offset"]),
        helper.make_node("Add", ["offset", "input_ids"], ["places"]),
        helper.make_node("Gather", ["table", "places"], ["own"]),
        helper.make_node("Gather", ["context", "input_ids"], ["parts"]),
    ]
    if keep is None:
        nodes.append(helper.make_node("ReduceSum", ["parts", "columns"], ["sum"]))
    else:
        shaped = helper.make_node(
            "Squeeze" if dream else "Unsqueeze", ["numbers", "columns"], ["keep"]
        )
        nodes += [keep, shaped, helper.make_node("MatMul", ["keep", "parts"], ["sum"])]
    if state:
        inputs.append(helper.make_tensor_value_info("token_state", integers, shape))
        nodes += [
            helper.make_node("Add", ["own", "sum"], ["without"]),
            helper.make_node("Cast", ["token_state"], ["states"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["states", "two"], ["column"]),
            helper.make_node("Mul", ["column", "first"], ["shift"]),
            helper.make_node("Add", ["without", "shift"], ["network"]),
        ]
        nodes.insert(0, helper.make_node("Constant", [], ["two"], value_ints=[2]))
    else:
        nodes.append(helper.make_node("Add", ["own", "sum"], ["network"]))
    return nodes, inputs
