"""What the GPU benchmark's variants need of a device's memory, beside what is known of the published models."""

from __future__ import annotations

import dataclasses

import pytest

from cpu_suite.specs import Shape, shapes
from gpu_suite import memory, options, runs
from gpu_suite.memory import (
    activation_bytes,
    base_bytes,
    require_memory,
    weight_bytes,
    without_room,
)
from gpu_suite.specs import FULL, LLADA, MODELS
from gpu_suite.variants import ANCHORS, EMBED8, HEADLINE, VARIANTS, Variant
from starquant_fx.errors import InputError

SPEC, SHORT, LONG = MODELS[LLADA], Shape(1, 64), Shape(16, 1024)
GB = 1_000_000_000


def group(number: int) -> list[Variant]:
    return [VARIANTS[name] for name in ANCHORS] + [
        one for one in VARIANTS.values() if one.group == number and not one.asked
    ]


def test_bytes_are_those_of_the_model() -> None:
    assert base_bytes(SPEC) > 2 * 8_015_000_000
    # docs/cost.md: 5.748 and 4.713 GB in all, of which 2.07 are the shared embedding and head in bf16.
    assert weight_bytes(SPEC, VARIANTS[HEADLINE]) == pytest.approx(
        5.748 * GB - 2.072 * GB, rel=0.05
    )
    assert weight_bytes(SPEC, VARIANTS[EMBED8]) == pytest.approx(4.713 * GB, rel=0.05)
    assert weight_bytes(SPEC, VARIANTS[ANCHORS[0]]) == 0
    assert activation_bytes(SPEC, LONG) > 2 * LONG.tokens * SPEC.vocab


def test_an_h200_has_room_for_all_and_80_gb_for_all_but_the_longest() -> None:
    for number in range(1, 6):
        for shape in shapes(FULL.shapes, "--shapes"):
            some = group(number)
            assert without_room(SPEC, some, some, shape, 140 * GB) == {}
            if shape != LONG:
                assert without_room(SPEC, some, some, shape, 79 * GB) == {}
            assert without_room(SPEC, some, some, shape, None) == {}


def test_what_has_no_room_says_how_much_is_missing() -> None:
    some = group(2)
    found = without_room(SPEC, (), some, SHORT, 24 * GB)
    assert {"star-w8a8", "star-w4a4[role:head=w8a8]"} <= set(found)
    assert not set(ANCHORS) & set(found)
    assert all(why.startswith("no room: at 1x64 it needs") for why in found.values())
    assert all("24 GB were free" in why for why in found.values())


def test_a_device_too_small_for_every_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    require_memory([SPEC], [SHORT, LONG], 24 * GB)
    with pytest.raises(InputError, match="holds none of the models") as refused:
        require_memory([SPEC], [SHORT], 12 * GB)
    assert "12 GB free" in str(refused.value)
    monkeypatch.setattr(options, "capacity", lambda device: 1)
    tried = ["--device", "cpu", "--tiny"]
    with pytest.raises(InputError, match="holds none of the models"):
        options.planned(options.parser("").parse_args(tried))
    options.planned(options.parser("").parse_args([*tried, "--parts", "checks"]))


def test_a_model_without_room_is_rows_that_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = options.planned(
        options.parser("").parse_args(["--device", "cpu", "--tiny", "--variants", HEADLINE])
    )
    monkeypatch.setattr(runs, "capacity", lambda device: memory.RESERVED // 2)
    plan = dataclasses.replace(plan, specs=plan.specs[:1])
    rows = list(runs.models(plan, runs.Clock(plan.device), 1e9, print))
    assert {row.variant for row in rows} == {*ANCHORS, HEADLINE}
    assert all(row.reason.startswith("no room: ") and row.median is None for row in rows)
