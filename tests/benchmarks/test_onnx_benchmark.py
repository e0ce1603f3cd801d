"""The benchmark of exported models from end to end, on a tiny model in this process; and what it may load."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from cpu_suite import measure, prepare
from cpu_suite.specs import MODELS, Place, Shape
from cpu_suite.variants import Variant
from cpu_suite.worker import WorkerError
from onnx_suite import command, plain
from onnx_suite.served import SessionServed
from onnx_suite.summaries import INTEGER
from onnx_suite.variants import DYNAMIC, FULL, QUICK, Session, export

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "onnx.py"
KEYS = {
    *("integer_vs_fp32", "integer_vs_quantize_dynamic"),
    *("float_fallbacks", "block_linears", "max_rel_error"),
}


class Here:
    """A worker without a process of its own, which would load PyTorch again; one request at a time."""

    lock = threading.Lock()

    def __init__(self, variant: Variant, place: Place, patience: float) -> None:
        self.variant, self.served = variant, variant.served(place)

    def ask(self, request: str, *arguments: Any) -> Any:
        try:
            with self.lock, torch.no_grad():
                return getattr(self.served, request)(*arguments)
        except Exception as error:
            raise WorkerError(str(error)) from error

    def interrupt(self) -> None:
        pass

    def stop(self) -> None:
        pass


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers in this process."""
    threads = torch.get_num_threads()
    for module in (measure, prepare):
        monkeypatch.setattr(module, "Worker", Here)
    yield
    torch.set_num_threads(threads)


def test_quick_writes_rows_and_a_summary_and_a_failure_is_a_row(
    here: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(place: Place) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(plain, "_quantize", broken)
    some = (export("rtn-w8a8 int8 head", ("integer",)),)
    monkeypatch.setitem(QUICK, "12x1024", some)
    file = tmp_path / "quick.json"
    arguments = ["--quick", "--models", "2x128", "--tokens", "1x16", "--repeats", "2"]
    assert command.main([*arguments, "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    rows = {(row["variant"], row["masked"]): row for row in found["rows"]}
    assert list(rows) == [(n, m) for m in (False, True) for n in (FULL, DYNAMIC, INTEGER)]
    for (name, masked), row in rows.items():
        if name == DYNAMIC:
            assert "no such operator" in row["reason"]
            continue
        assert not row["reason"], row
        assert len(row["seconds"]) == 2
        assert row["load_seconds"] > 0
        assert row["disk_bytes"] > 0
        assert (row["peak_bytes"] is None) == masked
    ours = rows[INTEGER, False]
    assert 0 < ours["error"] < 0.1
    assert (ours["block_linears"], ours["float_fallbacks"]) == (14, 0)
    assert sum(ours["kernels"].values()) == 15
    assert ours["max_rel_error"] == max(ours["max_rel_error_default"], ours["max_rel_error_strict"])
    assert ours["vs_fp32"] == pytest.approx(rows[FULL, False]["median"] / ours["median"])
    summary = found["summary"]
    assert set(summary) >= KEYS
    assert summary["integer_vs_fp32"] == ours["vs_fp32"]
    assert summary["integer_vs_quantize_dynamic"] is None
    assert summary["max_rel_error"] == ours["max_rel_error"] < 0.1
    out = capsys.readouterr().out
    assert f"| {DYNAMIC} | not measured: " in out
    assert "### Goals" in out


def test_a_session_without_an_export_says_why(tmp_path: Path) -> None:
    served = SessionServed(
        Session("x", "ours", "served", ("nowhere",)), Place(tmp_path, MODELS["2x128"], 1)
    )
    with pytest.raises(Exception, match=r"nowhere-onnx|NO_SUCHFILE"):
        served.ready(False, Shape(1, 4))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--models", "llada-tinny"], "llada-tiny"),
        (["--recipes", "rtn-w8"], "rtn-w8a8"),
        (["--tokens", "1x1"], "--logits all"),
        (["--threads", "0"], "--threads"),
        (["--repeats", "0"], "--repeats"),
        (["--json", "rows.txt"], ".json"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(
    options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(options) == 2
    out = capsys.readouterr()
    assert told in out.err
    assert not out.out


def test_the_script_runs_and_hides_no_package() -> None:
    assert str(SCRIPT.parent) in sys.path
    assert SCRIPT not in Path(onnx.__file__ or "").parents
    assert SCRIPT.parent not in Path(onnx.__file__ or "").parents
    ran = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "--quick" in ran.stdout


def test_a_session_process_loads_no_torch() -> None:
    code = (
        "import sys; sys.path.append(sys.argv[1])\n"
        "import cpu_suite.worker, onnx_suite.served\n"
        "print(sorted({'torch', 'transformers', 'onnx'} & set(sys.modules)))"
    )
    arguments = [sys.executable, "-c", code, str(SCRIPT.parent)]
    ran = subprocess.run(arguments, capture_output=True, text=True)
    assert ran.stdout.strip() == "[]", ran.stderr
