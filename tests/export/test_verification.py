"""What verification finds, in models that are right and in models that are not."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from rich.console import Console

import starquant_fx
from starquant_fx.compiled import CompiledModel
from starquant_fx.errors import LoweringError
from starquant_fx.export import api, verify
from starquant_fx.export.api import ExportReport, export_onnx
from starquant_fx.export.build import Form
from starquant_fx.export.sheet import sheet
from starquant_fx.export.states import KINDS, SHAPES, Case, cases
from starquant_fx.export.verify import Verification, quantized_linears
from starquant_fx.runtime.metadata import MODEL
from tests.export.small import built, compiled

pytestmark = pytest.mark.usefixtures("built_once")
LINEARS = 7


def exported(folder: Path, flavour: str = "integer", **options: Any) -> ExportReport:
    return export_onnx(compiled("odd"), folder / "a", flavour=flavour, **options)


def found_in(report: ExportReport) -> Verification:
    assert report.verification is not None
    return report.verification


def printed(report: ExportReport) -> str:
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(sheet(report))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    return text


def spoiled(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Lets exports write another model file than they should."""
    write = api.write

    def other(folder: Path, *arguments: Any) -> None:
        write(folder, *arguments)
        change(folder / MODEL)

    monkeypatch.setattr(api, "write", other)


def test_every_kind_of_state_is_compared_under_both_options(tmp_path: Path) -> None:
    samples = torch.randint(0, 50, (2, 9))
    found = found_in(exported(tmp_path, samples=samples))
    names = [c.case for c in found.comparisons if c.options == "default"]
    assert names == [c.case for c in found.comparisons if c.options == "strict"]
    assert len(names) == len(SHAPES) * len(KINDS) + len(KINDS) + 1
    for kind in KINDS:
        assert {f"random, {kind}, {b} x {n}" for b, n in SHAPES} <= set(names)
    text = [f"text, {kind}, 2 x 9" for kind in KINDS]
    assert names[-4:] == [*text, "text, mixed, 1 x 9"]
    assert found.error() == max(found.error("default"), found.error("strict"))
    assert found.error() < 0.1
    assert found.agreement > 0.9


def test_states_hold_the_masks_that_they_are_named_after() -> None:
    for one in cases(["input_ids", "rows", "attention_mask"], 61, 60, 20, None):
        masked = one.inputs["input_ids"] == 60
        share = float(masked.float().mean())
        expected = next(v for k, v in KINDS.items() if f", {k}," in one.name)
        assert share == expected if expected in (0, 1) else 0 < share < 1
        assert masked.shape[1] <= 20
        keep = one.inputs["attention_mask"].bool()
        assert not keep.all()
        assert torch.equal(one.kept, keep.flatten()[one.inputs["rows"]])
    for one in cases(["input_ids", "token_state"], 61, None, None, None):
        assert one.inputs["token_state"].shape == one.inputs["input_ids"].shape
        assert one.kept.all()


def test_which_kernel_every_linear_runs_as(tmp_path: Path) -> None:
    for flavour, kernel, packed in (
        ("integer", "MatMulIntegerToFloat", True),
        ("qdq", "MatMul", False),
        ("nbits", "MatMulNBits", True),
    ):
        found = found_in(exported(tmp_path, flavour, force=True))
        names = [linear.name for linear in found.linears]
        assert len(set(names)) == LINEARS
        assert set(names) == set(quantized_linears(built(compiled("odd"), Form(flavour))))
        assert {linear.kernel for linear in found.linears} == {kernel}
        assert {linear.provider for linear in found.linears} == {"CPUExecutionProvider"}
        assert len(found.float_fallbacks) == (0 if packed else LINEARS)


def test_the_report_as_text_and_as_json(tmp_path: Path) -> None:
    report = exported(tmp_path)
    text = printed(report)
    assert "states, batch x length" in text
    assert "random, none masked, 3 x 16" in text, "names stay on one line"
    assert f"onnxruntime runs {LINEARS} quantized linears as MatMulIntegerToFloat" in text
    assert "warning" not in text
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert values["folder"] == str(tmp_path / "a")
    assert values["verification"]["float_fallbacks"] == []
    assert values["verification"]["error_strict"] == found_in(report).error("strict")
    assert len(values["verification"]["linears"]) == LINEARS


def test_linears_in_floating_point_are_warned_of(tmp_path: Path) -> None:
    report = exported(tmp_path, "qdq")
    assert f"warning: all {LINEARS} run in floating point" in printed(report)
    found = found_in(report)
    assert report.to_dict()["verification"]["float_fallbacks"] == [n.name for n in found.linears]
    some = tuple(
        dataclasses.replace(linear, kernel="MatMulIntegerToFloat" if i else "MatMul")
        for i, linear in enumerate(found.linears)
    )
    other = dataclasses.replace(report, verification=dataclasses.replace(found, linears=some))
    text = " ".join(printed(other).split())
    assert f"warning: 1 of {LINEARS} run in floating point: {some[0].name} (MatMul)" in text


def test_what_onnxruntime_does_to_activations_of_16_bits_is_noted(tmp_path: Path) -> None:
    assert "activations, too; strict options" in printed(exported(tmp_path, "nbits"))
    assert "activations, too" not in printed(exported(tmp_path, "qdq", force=True))


def test_what_was_not_verified_says_so(tmp_path: Path) -> None:
    report = exported(tmp_path, verify=False)
    assert report.verification is None
    assert report.to_dict()["verification"] is None
    assert "not verified: verification was turned off" in printed(report)


def doubled(path: Path) -> None:
    """Doubles the scale of a linear's weight."""
    model = onnx.load(path)
    scale = next(t for t in model.graph.initializer if t.name.endswith("ff_out.weight_scale"))
    scale.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(scale), scale.name))
    onnx.save(model, path)


def missing(path: Path) -> None:
    """Makes a token's embedding, which is its row of the head as well, NaN."""
    model = onnx.load(path)
    table = next(t for t in model.graph.initializer if t.name.endswith("wte.weight"))
    values = numpy_helper.to_array(table).copy()
    values[5] = np.nan
    table.CopyFrom(numpy_helper.from_array(values, table.name))
    onnx.save(model, path)


def test_a_wrong_weight_is_seen_in_every_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found_in(exported(tmp_path, force=True)).doubts("integer") == ()
    spoiled(monkeypatch, doubled)
    report = exported(tmp_path, force=True)
    found = found_in(report)
    assert min(c.error for c in found.comparisons) > 0.05
    assert found.agreement < 1
    assert [text.partition(":")[0] for text in found.doubts("integer")] == [
        *("default options", "strict options")
    ]
    text = " ".join(printed(report).split())
    assert "does not seem to compute what the reference does" in text
    assert "note:" not in text


def test_nan_is_an_infinite_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled(monkeypatch, missing)
    report = exported(tmp_path)
    assert found_in(report).error() == math.inf
    assert "inf" in printed(report)
    assert any("error inf" in text for text in found_in(report).doubts("integer"))
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert values["verification"]["error_default"] is None


def test_rows_of_padding_do_not_count_and_others_do() -> None:
    wanted, got = torch.randn(1, 3, 5), None
    for spoiled_row, expected in ((0, 0.0), (1, math.inf)):
        got = wanted.clone()
        got[0, spoiled_row] = torch.nan
        case = Case("x", {}, torch.tensor([[False, True, True]]))
        assert verify._compare(case, "default", (got,), (wanted,)).error == expected
    both = wanted.index_fill(1, torch.tensor(1), torch.nan)
    case = Case("x", {}, torch.ones(1, 3, dtype=torch.bool))
    assert verify._compare(case, "default", (both,), (both,)).error == 0


def cut(path: Path) -> None:
    """Takes the end of a file away."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def renamed(path: Path) -> None:
    """Makes a node one that there is not."""
    model = onnx.load(path)
    model.graph.node[3].op_type = "NoSuchOperator"
    onnx.save(model, path)


def misshapen(path: Path) -> None:
    """Gives an output a shape that it cannot have."""
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 3
    onnx.save(model, path)


def unknown_output(path: Path) -> None:
    """Gives an output another name."""
    model = onnx.load(path)
    old = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["other" if name == old else name for name in node.output]
    model.graph.output[0].name = "other"
    onnx.save(model, path)


@pytest.mark.parametrize("change", [cut, renamed, misshapen, unknown_output])
def test_an_invalid_model_is_refused_and_nothing_is_left(
    change: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled(monkeypatch, change)
    with pytest.raises(LoweringError, match="refuses the exported model"):
        exported(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_checker_is_given_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    check = onnx.checker.check_model

    def noted(model: Any, *arguments: Any, **options: Any) -> Any:
        seen.append((model, options))
        return check(model, *arguments, **options)

    monkeypatch.setattr(onnx.checker, "check_model", noted)
    exported(tmp_path)
    ((path, options),) = seen
    assert Path(path).name == MODEL, "a model above two gigabytes can be checked by path only"
    assert options == {"full_check": True}


def test_weights_alone_are_judged_under_strict_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = found_in(exported(tmp_path, "nbits"))
    assert found.error("default") > verify.EXACT, "onnxruntime quantizes activations"
    assert found.doubts("nbits") == ()
    spoiled(monkeypatch, doubled)
    (doubt,) = found_in(exported(tmp_path, "nbits", force=True)).doubts("nbits")
    assert doubt.startswith("strict options: error")


@functools.cache
def wide() -> CompiledModel:
    """The first block of a model of biases, wide enough for channels of the zero point."""
    source: Any = starquant_fx.from_pretrained("dream-tiny")[0]
    del source.model.layers[1:]
    texts = torch.randint(5, 500, (2, 16), generator=torch.Generator().manual_seed(0))
    return starquant_fx.compile(source, "rtn-w8a8", calibration=texts, target="reference")


@pytest.mark.parametrize("flavour", ["integer", "qdq"])
def test_linears_with_a_bias_and_no_states_are_right(flavour: str, tmp_path: Path) -> None:
    """A constant that is added to a wide integer product is scaled by onnxruntime's fused kernel."""
    report = export_onnx(wide(), tmp_path / "a", flavor=flavour, head="row-logits")
    found = found_in(report)
    assert found.doubts(flavour) == ()
    assert min(c.typical for c in found.comparisons) < 1e-5
    assert found.agreement > 0.9
