"""What the linears run as is looked at beside the export; where that fails the export is none the worse."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from starquant_fx import runtime
from starquant_fx.export import kernels
from starquant_fx.export.api import export_onnx
from starquant_fx.export.kernels import UNKNOWN
from tests.export.small import compiled

pytestmark = pytest.mark.usefixtures("built_once")


def kinds(folder: Path) -> set[str]:
    """The kernels that the report of a new export names."""
    report = export_onnx(compiled("odd"), folder, flavour="integer")
    assert report.verification is not None
    assert len(report.verification.linears) == 7
    assert report.verification.error() < 0.1
    return {linear.kernel for linear in report.verification.linears}


def test_nothing_is_written_to_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    places = []

    class Session(onnxruntime.InferenceSession):
        def __init__(self, path: Any, options: Any, **more: Any) -> None:
            places.append(Path(options.optimized_model_filepath))
            super().__init__(path, options, **more)

    library = SimpleNamespace(InferenceSession=Session)
    monkeypatch.setattr(kernels, "onnxruntime", lambda: library)
    assert kinds(tmp_path / "a") == {"MatMulIntegerToFloat"}
    assert [tmp_path in place.parents for place in places] == [True]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["model.onnx", "starquant.json"]


def full_disk(*arguments: Any, **options: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def broken(*arguments: Any, **options: Any) -> Any:
    raise onnxruntime.capi.onnxruntime_pybind11_state.Fail(  # pyright: ignore[reportAttributeAccessIssue]
        "write: no space"
    )


@pytest.mark.parametrize("fault", ["folder", "session", "graph"])
def test_without_a_report_the_export_stays(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if fault == "folder":
        monkeypatch.setattr(kernels.tempfile, "TemporaryDirectory", full_disk)
    elif fault == "session":
        library = SimpleNamespace(InferenceSession=broken)
        monkeypatch.setattr(kernels, "onnxruntime", lambda: library)
    else:
        monkeypatch.setattr(kernels.onnx, "load", full_disk)
    with caplog.at_level(logging.WARNING, "starquant_fx"):
        assert kinds(tmp_path / "a") == {UNKNOWN}
    assert "no profile could be made" in caplog.text
    assert "pace" in caplog.text, "why is said"
    assert runtime.load(tmp_path / "a").metadata.flavour == "integer"
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["model.onnx", "starquant.json"]
