"""Timing tiles, with a timer that makes times up."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import triton

from starquant_fx.errors import InputError, LoweringError
from starquant_fx.kernels.triton import configs, tune
from starquant_fx.kernels.triton.predict import Tile

CPU = torch.device("cpu")
SHAPES = [(20, 130), (24, 130)]
KEYS = [(4, *shape, 32) for shape in SHAPES]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    configs.forget()
    yield tmp_path / "starquant_fx"
    configs.forget()


class Timer:
    """Runs the first job and makes up all times; the second tile of a key is the fastest."""

    def __init__(self, failing: Callable[[int], bool] = lambda n: False) -> None:
        self.failing = failing
        self.calls = 0

    def __call__(self, job: Callable[[], object]) -> float:
        self.calls += 1
        if self.calls == 1:
            job()
        if self.failing(self.calls):
            raise RuntimeError("out of shared memory")
        return 1.0 if (self.calls - 1) % TILES == 1 else 3.0


TILES = len(tune.candidates(90, KEYS[0]))


def table(chip: int = 90) -> dict[configs.Key, Tile]:
    return configs.read_table(configs.cache_path(chip), chip)


def tuned(timer: Timer, again: bool = False) -> dict[configs.Key, tuple[Tile, float]]:
    return tune.tune(CPU, SHAPES, [32], [4], timer, again)


def test_the_fastest_is_kept_and_what_was_there(cache: Path) -> None:
    other = (8, 256, 256, 32)
    cache.mkdir()
    first = Tile(t=64, n=64, warps=4, stages=4, split=1, parts=2)
    configs.cache_path(90).write_text(configs.table_text(90, "measured", {other: first}))
    best = tune.candidates(90, KEYS[0])[1]
    assert tuned(Timer()) == dict.fromkeys(KEYS, (best, 1.0))
    assert table() == {other: first, **dict.fromkeys(KEYS, best)}
    content = json.loads(configs.cache_path(90).read_text())
    assert content["origin"] == "measured"
    assert content["stale"] == [list(other)]
    assert [path.name for path in cache.iterdir()] == ["triton-sm_90.json"]


def test_a_tile_that_does_not_run_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = tuned(Timer(lambda n: n == 2 or n > TILES))
    tiles = tune.candidates(90, KEYS[0])
    assert found == {KEYS[0]: (tiles[0], 3.0)}
    assert table() == {KEYS[0]: tiles[0]}
    assert (
        f"{tiles[1]} is left out for {KEYS[0]}: RuntimeError: out of shared memory" in caplog.text
    )
    assert f"no tile runs for {KEYS[1]}" in caplog.text


def test_a_run_that_was_ended_goes_on() -> None:
    def interrupted(calls: int) -> bool:
        if calls > TILES:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        tuned(Timer(interrupted))
    assert list(table()) == KEYS[:1]
    assert list(tuned(Timer())) == KEYS[1:]
    assert tuned(timer := Timer()) == {}
    assert timer.calls == 0
    assert list(tuned(Timer(), again=True)) == KEYS


def test_another_triton_or_device_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tuned(Timer())
    monkeypatch.setattr(triton, "__version__", "99.0")
    tune.tune(CPU, SHAPES[:1], [32], [4], Timer())
    assert list(tuned(Timer())) == KEYS[1:], "the other one was of the older Triton"
    monkeypatch.setattr(tune, "_name", lambda device: "another")
    assert list(tuned(Timer())) == KEYS


@pytest.mark.parametrize("chip", [100, 120])
def test_a_newer_chip_has_a_table_of_its_own(chip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "architecture", lambda device: chip)
    tuned(Timer())
    assert list(table(chip)) == KEYS
    assert not configs.cache_path(90).exists()


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="number of tokens"):
        tune.tune(CPU, [(20, 130)], [33])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LoweringError, match="no GPU that PyTorch can use"):
        tune.tune(torch.device("cuda"))
    monkeypatch.setattr(tune, "interpreting", lambda: False)
    with pytest.raises(LoweringError, match="tiles cannot be timed here"):
        tune.tune(CPU)
