"""``import starquant_fx`` is cheap: the command line and editors import it often."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

HEAVY = ("torch", "transformers", "triton", "onnx", "onnxruntime", "numpy")
RunPython = Callable[[str, Path], "subprocess.CompletedProcess[str]"]


def test_import_loads_nothing_heavy(tmp_path: Path, run_python: RunPython) -> None:
    code = "import json, sys, starquant_fx; print(json.dumps(sorted(sys.modules)))"
    result = run_python(code, tmp_path)
    assert result.returncode == 0, result.stderr
    loaded = {name.split(".")[0] for name in json.loads(result.stdout)}
    assert "starquant_fx" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_using_the_api_does_not_initialise_cuda(tmp_path: Path, run_python: RunPython) -> None:
    code = (
        "import starquant_fx, torch\n"
        "for name in starquant_fx.__all__:\n"
        "    getattr(starquant_fx, name)\n"
        "print(torch.cuda.is_initialized())\n"
    )
    result = run_python(code, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["False"]
