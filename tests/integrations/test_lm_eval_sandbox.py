"""Programs of a model run within limits."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from starquant_fx.integrations.harness.programs import ProgramTests, build_programs
from starquant_fx.integrations.harness.sandbox import Limits, run_program

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="limits are Linux's own"
)
ROOMY = Limits(cpu_seconds=20, wall_seconds=60)


def test_a_program_that_ends_passes() -> None:
    ordinary = "import math, random, collections, heapq, typing\nassert math.isqrt(10) == 3"
    assert run_program(ordinary, ROOMY).passed
    assert run_program("open('a', 'w').write('x')\nassert open('a').read() == 'x'", ROOMY).passed


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("assert False", "AssertionError"),
        ("def", "SyntaxError"),
        ("raise SystemExit(0)", "SystemExit"),
        ("import os; os._exit(0)", "ended with status 0"),
        ("input()", "EOFError"),
    ],
)
def test_one_that_does_not_reach_its_end_fails(program: str, reason: str) -> None:
    outcome = run_program(program, ROOMY)
    assert (outcome.passed, outcome.reason) == (False, reason)


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "while True: print('x' * 1000)",
        "import time; time.sleep(60)",
        "import signal, time\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\ntime.sleep(60)",
    ],
)
def test_endless_programs_are_killed(program: str) -> None:
    start = time.monotonic()
    assert run_program(program, Limits(cpu_seconds=1, wall_seconds=2)).reason == "time"
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    "program",
    ["a = [0] * 10**11", "a = []\nwhile True: a.append(bytearray(10**7))"],
)
def test_hunger_for_memory_is_stopped(program: str) -> None:
    limits = Limits(cpu_seconds=20, wall_seconds=60, memory_bytes=1 << 28)
    assert run_program(program, limits).reason == "MemoryError"


def test_files_stay_small() -> None:
    assert run_program("open('a', 'w').write('x' * 10**8)", ROOMY).reason == "OSError"


@pytest.mark.parametrize(
    "program",
    [
        "import os; os.fork()",
        "import os; os.system('true')",
        "import os; os.posix_spawn('/bin/true', ['true'], {})",
        "import os; os.kill(os.getppid(), 9)",
        "import os; os.remove(__file__ if '__file__' in dir() else '/tmp/nothing')",
        "import os; os.listdir('/')",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import ctypes",
        "open('/etc/passwd')",
        "import os; open(f'/proc/{os.getppid()}/environ')",
        "import pathlib; pathlib.Path('../outside').write_text('x')",
    ],
)
def test_processes_connections_and_foreign_files_are_refused(program: str) -> None:
    assert run_program(program, ROOMY).reason == "PermissionError"


def test_subprocesses_cannot_be_imported() -> None:
    for program in ("import subprocess; subprocess.run(['true'])", "import _posixsubprocess"):
        assert run_program(program, ROOMY).reason == "ModuleNotFoundError"


def test_secrets_are_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "secret")
    assert run_program("import os\nassert 'SOME_TOKEN' not in os.environ", ROOMY).passed
    assert os.environ["SOME_TOKEN"] == "secret"


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert run_program("open('a', 'w').write('x')", ROOMY).passed
    assert list(tmp_path.iterdir()) == []


def test_the_metric_is_the_share_of_passing_programs() -> None:
    docs = [{"prompt": "def one():\n"}]
    (programs,) = build_programs([["    return 1", "    return 2"]], docs)
    tests = "def check(f):\n    assert f() == 1\ncheck(one)"
    metric = ProgramTests(ROOMY)
    assert metric(references=[tests], predictions=[programs[:1]]) == 1
    assert metric(references=[tests], predictions=[programs]) == 0.5
