"""onnxruntime: the exported model in float32, dynamically quantized to int8, and with 4-bit weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from cpu_suite.runner import Logits, Runner
from cpu_suite.sources import code_hash
from cpu_suite.specs import Place
from cpu_suite.weights import load

HEADS = {"fp32": "fp32", "int8": "int8", "nbits32": "int4", "nbits128": "int4"}
"""Type of the head's weight; all of these quantize it like the other linears."""


def prepare(place: Place, kind: str) -> None:
    """Exports the float32 model once, and quantizes it."""
    plain = _file(place, "fp32")
    made_by = plain.with_suffix(".code")
    if not made_by.exists() or made_by.read_text() != code_hash():
        _export(place, plain)
        made_by.write_text(code_hash())
    if kind != "fp32":
        _quantize(plain, _file(place, kind), kind)
    path = _file(place, kind)
    size = weight_bytes(onnx.load(path), place.spec.vocab)
    path.with_suffix(".json").write_text(json.dumps({"weight_bytes": size}))


def build(place: Place, kind: str) -> Runner:
    """A session on the CPU with the threads asked for, and all of its graph optimizations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = place.threads
    options.inter_op_num_threads = 1
    path = _file(place, kind)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    held = json.loads(path.with_suffix(".json").read_text())["weight_bytes"]

    def forward(ids: Tensor, rows: Tensor | None) -> Any:
        wanted = {} if rows is None else {"rows": rows.numpy()}
        return session.run(None, {"ids": ids.numpy(), **wanted})[0]

    return Runner(forward, held, HEADS[kind], torch.from_numpy)


def weight_bytes(model: onnx.ModelProto, vocab: int) -> int:
    """Bytes of the constants that the blocks' linears read.

    Args:
        model: The exported model.
        vocab: Rows of the embedding and of the head; a constant of this size, and what is read beside it, is theirs.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    counted: set[str] = set()
    for node in model.graph.node:
        read = [name for name in node.input if name in constants]
        if not any(vocab in constants[name].dims for name in read):
            counted.update(read)
    return sum(_bytes(constants[name]) for name in counted)


def _bytes(tensor: onnx.TensorProto) -> int:
    numbers = 1
    for size in tensor.dims:
        numbers *= size
    return numbers * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _export(place: Place, path: Path) -> None:
    _empty(path.parent)
    inputs: tuple[Tensor, ...] = (torch.zeros(2, 12, dtype=torch.int64),)
    sizes: dict[str, Any] = {"ids": {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}}
    if place.masked:
        inputs = (*inputs, torch.arange(5))
        sizes["rows"] = {0: torch.export.Dim("wanted")}
    with torch.no_grad():
        program = torch.onnx.export(
            Logits(load(place, "fp32")), inputs, dynamo=True, dynamic_shapes=sizes, verbose=False
        )
    assert program is not None
    program.save(path, external_data=True)


def _quantize(plain: Path, path: Path, kind: str) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    _empty(path.parent)
    if kind == "int8":
        quantize_dynamic(plain, path, weight_type=QuantType.QInt8, use_external_data_format=True)
        return
    size = int(kind.removeprefix("nbits"))
    quantizer = MatMulNBitsQuantizer(
        onnx.load(plain), block_size=size, is_symmetric=True, accuracy_level=4
    )
    quantizer.process()
    made: Any = quantizer.model
    made.save_model_to_file(str(path), use_external_data_format=True)


def _empty(folder: Path) -> None:
    """An empty folder; writers of external data append to what is there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def _file(place: Place, kind: str) -> Path:
    """Every kind has a folder of its own, because weights lie beside the file."""
    return place.folder / f"onnx-{kind}{'-masked' if place.masked else ''}" / "model.onnx"
