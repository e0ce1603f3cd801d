"""A few hundred damaged and forged folders, and that the fuzzer would notice what must not happen."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import fuzz_checkpoints
import pytest

from checkpoint_fuzz import bases
from checkpoint_fuzz.cases import Case, make
from checkpoint_fuzz.limits import Limits
from checkpoint_fuzz.subjects import Artifact, Model, Packed, Subject
from checkpoint_fuzz.verdicts import judge
from checkpoint_fuzz.workers import run
from starquant_fx.errors import InputError, StarQuantError

LIMITS = Limits(seconds=20)


def outcomes(subject: Subject, sound: Path, place: Path, cases: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for number in range(cases):
        case, verdict = run(subject, 11, number, sound, place, LIMITS)
        assert verdict.fine, (case, verdict)
        found[verdict.outcome] += 1
    return found


def test_packed_checkpoints(tmp_path: Path) -> None:
    sound = bases.packed(tmp_path / "sound", "rtn-w4a4")
    found = outcomes(Packed(sound), sound, tmp_path, 40)
    assert found["refused"] > 25


def test_models(tmp_path: Path) -> None:
    sound = bases.full(tmp_path / "sound")
    found = outcomes(Model(sound), sound, tmp_path, 200)
    assert found["refused"] > 140


def test_artifacts(tmp_path: Path) -> None:
    sound = bases.artifact(tmp_path / "sound", "rtn-w4a4")
    found = outcomes(Artifact(sound), sound, tmp_path, 15)
    assert found["refused"] > 8


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("subject", fuzz_checkpoints.SUBJECTS)
def test_in_processes_of_their_own(subject: str, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    status = fuzz_checkpoints.main(
        [subject, "--cases", "500", "--seed", "5", "--report", str(report)]
    )
    told = json.loads(report.read_text())
    assert status == 0, told["defects"]
    assert told["cases"] == 500


def test_a_case_is_the_same_each_time(tmp_path: Path) -> None:
    sound = bases.full(tmp_path / "sound")
    cases = [make(0, n % 30, sound, tmp_path / "case" / "sound", hashed=False) for n in range(60)]
    assert cases[:30] == cases[30:]
    assert len({case.steps for case in cases}) > 25


def refuse() -> str:
    raise InputError("no", where="here", expected="x", got="y", hint="z")


def refuse_in_short() -> str:
    raise StarQuantError("no")


def refuse_for_memory() -> str:
    try:
        raise MemoryError
    except MemoryError as error:
        raise InputError("no", where="here", expected="x", got="y", hint="z") from error


def fail() -> str:
    raise KeyError("x")


def wait() -> str:
    time.sleep(10)
    return ""


def wait_in_a_handler() -> str:
    try:
        return wait()
    except Exception:
        return ""


def fill() -> str:
    return "" if bytearray(os.urandom(1 << 20) * 100) else "x"


@pytest.mark.parametrize(
    ("attempt", "forged", "outcome"),
    [
        (refuse, False, "refused"),
        (lambda: "", False, "identical"),
        (lambda: "a tensor", True, "forged"),
        (lambda: "a tensor", False, "different"),
        (refuse_in_short, False, "incomplete"),
        (refuse_for_memory, False, "large"),
        (fail, True, "raised"),
        (wait, True, "slow"),
        (wait_in_a_handler, True, "slow"),
        (fill, True, "large"),
    ],
)
def test_what_must_not_happen_is_noticed(
    attempt: Callable[[], str], forged: bool, outcome: str
) -> None:
    verdict = judge(attempt, forged, Limits(seconds=1, memory=50 << 20))
    assert verdict.outcome == outcome
    assert verdict.fine == (outcome in ("refused", "identical", "forged"))


def test_a_value_that_changes_unnoticed_is_a_defect(tmp_path: Path) -> None:
    """As if hashes were not compared."""
    sound = bases.packed(tmp_path / "sound", "rtn-w4a4")
    path = sorted(sound.glob("*.safetensors"))[0]
    packed = Packed(sound)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    case = Case(0, ("a bit",), sealed=False, check=False)
    assert judge(lambda: packed.attempt(sound, case), False, LIMITS).outcome == "different"
    whole = Case(0, ("a bit",), sealed=False, check=True)
    assert judge(lambda: packed.attempt(sound, whole), False, LIMITS).outcome == "refused"
