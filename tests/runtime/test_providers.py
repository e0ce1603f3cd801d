from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from starquant_fx import runtime
from starquant_fx.errors import InputError
from starquant_fx.runtime.providers import check_providers, check_started
from tests.runtime.exports import write_export
from tests.runtime.fakes import ArrayDenoiser

CPU = "CPUExecutionProvider"


@pytest.fixture
def only_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the CPU build of onnxruntime is installed."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])


def refused(**options: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        runtime.load("nowhere", **options)
    return caught.value


@pytest.mark.usefixtures("only_cpu")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"providers": ["CUDAExecutionProvider"]},
            "pip install onnxruntime-gpu in place of onnxruntime",
        ),
        ({"providers": ["cuda", "cpu"]}, "has no CUDAExecutionProvider"),
        ({"providers": ["CoreML"]}, "install an onnxruntime with CoreMLExecutionProvider"),
        ({"providers": ["cudda"]}, "did you mean 'cuda'"),
        ({"providers": []}, "no execution provider"),
        ({"providers": "cpu"}, "a list of names"),
        ({"providers": [None]}, "a list of names"),
        ({"providers": 5}, "got: 5"),
        ({"providers": {"cpu"}}, "a list of names"),
        ({"provider_options": [{}, {}]}, "a list of 1"),
        ({"provider_options": {"device_id": 1}}, "do not fit the providers"),
    ],
)
def test_bad_providers_are_refused_before_anything_is_read(
    options: dict[str, Any], message: str
) -> None:
    error = refused(**options)
    assert message in str(error)
    assert error.where in ("providers", "provider_options")


def test_short_names_are_taken() -> None:
    assert check_providers(["cpu"]) == check_providers(["CPU"]) == check_providers([CPU]) == [CPU]


def test_a_provider_that_did_not_start_is_named() -> None:
    check_started([CPU], [CPU])
    with pytest.raises(InputError, match="CUDAExecutionProvider did not start"):
        check_started(["CUDAExecutionProvider", CPU], [CPU])


def test_without_onnxruntime_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install onnxruntime" in str(refused())


def test_options_reach_the_session(tmp_path: Path) -> None:
    folder = write_export(tmp_path, ArrayDenoiser())
    options: dict[str, Any] = {
        "providers": ["cpu"],
        "provider_options": [{"use_arena": 0}],
        "threads": 1,
        "strict": True,
    }
    session = runtime.load(folder, **options).session
    assert session.get_providers() == [CPU]
    own = session.get_session_options()
    assert own.intra_op_num_threads == 1
    key = "session.qdq_matmulnbits_accuracy_level"
    assert own.get_session_config_entry(key) == "1"
    bad: list[tuple[str, Any]] = [("threads", 0), ("threads", 2**31), ("strict", 1)]
    for name, value in [*bad, ("check", None)]:
        with pytest.raises(InputError, match=f"{name} is not usable"):
            runtime.load(folder, **{name: value})
