"""With ``strict`` onnxruntime computes what the file says; without it, it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, save_model

from starquant_fx import runtime
from tests.runtime.exports import write_metadata

WIDTH, VOCABULARY = 64, 32
IDS = np.arange(12).reshape(2, 6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A float32 embedding times a head of four bits."""
    source = np.random.default_rng(0)
    codes = source.integers(0, 16, (WIDTH, VOCABULARY)).astype(np.uint8)
    scales = source.random((WIDTH // 32, VOCABULARY)).astype(np.float32) / 8
    table = source.standard_normal((VOCABULARY, WIDTH)).astype(np.float32)
    np.save(
        tmp_path / "expected.npy",
        table[IDS] @ ((codes.astype(np.float32) - 8) * scales.repeat(32, 0)),
    )
    zeros = np.full_like(scales, 8, np.uint8)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["x"]),
        helper.make_node(
            "DequantizeLinear", ["codes", "scales", "zeros"], ["w"], axis=0, block_size=32
        ),
        helper.make_node("MatMul", ["x", "w"], ["logits"]),
    ]
    weights = [
        numpy_helper.from_array(table, "table"),
        numpy_helper.from_array(scales, "scales"),
        *(packed(value, name) for value, name in ((codes, "codes"), (zeros, "zeros"))),
    ]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["B", "L"])
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", "L", VOCABULARY])
    graph = helper.make_graph(nodes, "head", [ids], [out], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    save_model(model, str(tmp_path / "model.onnx"))
    content: dict[str, Any] = {
        "format": "starquant-onnx",
        "version": 1,
        "flavour": "qdq",
        "opset": 21,
        "model_type": "llada",
        "vocab_size": VOCABULARY,
        "head": "logits",
        "inputs": ["input_ids"],
        "outputs": ["logits"],
    }
    write_metadata(tmp_path, content)
    return tmp_path


def packed(values: NDArray[np.uint8], name: str) -> TensorProto:
    """A tensor of four bits."""
    flat = values.reshape(-1)
    content = (flat[0::2] | (flat[1::2] << 4)).tobytes()
    return helper.make_tensor(name, TensorProto.UINT4, values.shape, content, raw=True)


def test_activations_that_the_file_leaves_in_float_stay_so(folder: Path) -> None:
    expected = np.load(folder / "expected.npy")
    strict = runtime.load(folder, strict=True)(IDS)
    np.testing.assert_allclose(strict, expected, rtol=1e-5, atol=1e-5)
    default = runtime.load(folder)(IDS)
    np.testing.assert_allclose(default, expected, atol=0.2)
