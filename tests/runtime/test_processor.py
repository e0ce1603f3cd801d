"""Where onnxruntime's products of bytes may saturate they are made exact, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from starquant_fx import runtime
from starquant_fx.runtime import processor
from tests.runtime.exports import write_export
from tests.runtime.fakes import ArrayDenoiser

KEY = "session.x64quantprecision"
AVX2 = "processor\t: 0\nmodel name\t: x: y\nflags\t\t: fpu sse2 avx2\nbugs\t\t: z\n"
CPUINFO = {
    AVX2: True,
    AVX2.replace("avx2", "avx2 avx512f avx512_vnni"): False,
    AVX2.replace("avx2", "avx2 avx_vnni"): False,
    "processor\t: 0\nFeatures\t: fp asimd asimddp\n": False,
    "processor\t: 0\nisa\t: rv64imafdc\n": False,
    "": False,
    "flags": False,
}


@pytest.mark.parametrize(("content", "expected"), CPUINFO.items())
def test_flags(
    content: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(content)
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    assert processor.lacks_vnni() is expected


def test_without_flags_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "nowhere")
    assert not processor.lacks_vnni()


@pytest.mark.parametrize("flavour", ["integer", "qdq", "nbits", "float"])
@pytest.mark.parametrize("vnni", [False, True])
def test_the_session_of_an_integer_export_is_told(
    flavour: str, vnni: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(AVX2.replace("avx2", "avx_vnni") if vnni else AVX2)
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    folder = write_export(tmp_path / "export", ArrayDenoiser(), flavour=flavour)
    options = runtime.load(folder).session.get_session_options()
    if flavour == "integer" and not vnni:
        assert options.get_session_config_entry(KEY) == "1"
    else:
        with pytest.raises(RuntimeError):
            options.get_session_config_entry(KEY)
