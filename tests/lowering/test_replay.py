"""Recorded calls: when they are recorded, that they compute the same, and what undoes them."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from starquant_fx.lowering import replay
from starquant_fx.lowering.replay import Call, CudaGraphs, Recording, Replays
from tests.compile_cases import fresh
from tests.small_models import masked_ids


def every(results: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (results,) if isinstance(results, Tensor) else results


class Tape:
    """Records calls as a CUDA device does: results are always written to the same memory."""

    def __init__(self, broken: bool = False) -> None:
        self.recorded: list[Recording] = []
        self.replayed = self.waited = 0
        self.open = False
        self.broken = broken

    def records(self, inputs: Sequence[Tensor]) -> bool:
        return all(type(x) is Tensor for x in inputs)

    def record(self, call: Call, inputs: tuple[Tensor, ...]) -> Recording:
        if self.broken:
            raise RuntimeError("out of memory")
        results = call(*inputs)

        def again() -> None:
            assert self.open
            self.replayed += 1
            for old, value in zip(every(results), every(call(*inputs)), strict=True):
                old.copy_(value)

        self.recorded.append(Recording(inputs, results, again))
        return self.recorded[-1]

    @contextlib.contextmanager
    def turn(self, recording: Recording) -> Iterator[None]:
        assert not self.open
        self.open = True
        try:
            yield
        finally:
            self.open = False

    def wait(self) -> None:
        self.waited += 1


def double(x: Tensor) -> Tensor:
    return 2 * x


def total(x: Tensor) -> Tensor:
    return x.sum()


def fail() -> None:
    raise RuntimeError("no memory")


def both(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x + y, x - y


def test_the_second_call_is_recorded_and_results_stay() -> None:
    tape = Tape()
    replays = Replays(tape)
    inputs = [torch.full((3,), float(i)) for i in range(5)]
    results = [replays(double, [x]) for x in inputs]
    assert len(tape.recorded) == 1
    assert tape.replayed == 4
    for x, result in zip(inputs, results, strict=True):
        assert torch.equal(result, 2 * x), "a later replay must not change it"
    pairs = [replays(both, [x, inputs[1]]) for x in inputs]
    for x, (added, less) in zip(inputs, pairs, strict=True):
        assert torch.equal(added, x + 1)
        assert torch.equal(less, x - 1)


def test_every_shape_type_and_call_has_its_own() -> None:
    tape = Tape()
    replays = Replays(tape)
    for _ in range(3):
        for x in (torch.ones(3), torch.ones(4), torch.ones(3, dtype=torch.int64)):
            assert torch.equal(replays(double, [x]), 2 * x)
        assert replays(lambda x: x + 1, [torch.ones(3)])[0] == 2
    assert len(tape.recorded) == 3, "a new function is another call every time"


def test_the_one_used_longest_ago_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "KEPT", 2)
    tape = Tape()
    replays = Replays(tape)
    for size in (1, 1, 2, 2, 1, 3, 3, 1):
        replays(double, [torch.ones(size)])
    assert [len(one.inputs[0]) for one in tape.recorded] == [1, 2, 3]
    assert tape.waited == 1, "what is dropped may still run"
    replays(double, [torch.ones(2)])  # was forgotten: seen for the first time again
    assert len(tape.recorded) == 3
    replays(double, [torch.ones(2)])
    assert len(tape.recorded) == 4


def test_large_results_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "LARGEST_RESULT", 16)
    tape = Tape()
    replays = Replays(tape)
    for size in (4, 4, 5, 5, 5):
        replays(double, [torch.ones(size)])
    assert [len(one.inputs[0]) for one in tape.recorded] == [4]


def test_calls_of_many_tokens_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "MOST_TOKENS", 8)
    tape = Tape()
    replays = Replays(tape)
    for size in (8, 8, 9, 9, 9):
        replays(total, [torch.ones(size)])
    assert [len(one.inputs[0]) for one in tape.recorded] == [8]


def test_a_failure_in_a_replay_lets_the_next_one_in() -> None:
    tape = Tape()
    replays = Replays(tape)
    for _ in range(2):
        replays(double, [torch.ones(3)])
    tape.recorded[0] = broken = Recording(tape.recorded[0].inputs, torch.ones(3), fail)
    key = next(iter(replays._found))
    replays._found[key] = broken
    with pytest.raises(RuntimeError, match="no memory"):
        replays(double, [torch.ones(3)])
    assert not tape.open


def test_what_cannot_be_recorded_is_called_with_one_warning() -> None:
    replays = Replays(Tape(broken=True))
    assert torch.equal(replays(double, [torch.ones(3)]), torch.full((3,), 2.0))
    with pytest.warns(UserWarning, match=r"could not be recorded .* out of memory"):
        result = replays(double, [torch.ones(3)])
    assert torch.equal(result, torch.full((3,), 2.0))
    with warnings.catch_warnings(action="error"):
        assert torch.equal(replays(double, [torch.ones(3)]), torch.full((3,), 2.0))


def test_recordings_made_in_inference_mode_serve_outside_of_it() -> None:
    tape = Tape()
    replays = Replays(tape)
    with torch.inference_mode():
        for _ in range(3):
            replays(double, [torch.ones(3)])
    assert tape.replayed == 2
    assert torch.equal(replays(double, [torch.full((3,), 4.0)]), torch.full((3,), 8.0))


def test_threads_do_not_mix_their_results() -> None:
    replays = Replays(Tape())
    wrong: list[float] = []

    def work(value: float) -> None:
        for _ in range(50):
            result = replays(double, [torch.full((8,), value)])
            if not torch.equal(result, torch.full((8,), 2 * value)):
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(float(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_tensors_on_the_cpu_are_called_directly() -> None:
    replays = Replays(CudaGraphs())
    for _ in range(3):
        assert torch.equal(replays(double, [torch.ones(2)]), torch.full((2,), 2.0))


@pytest.mark.slow
def test_a_compiled_model_replays_its_forward_its_logits_and_its_choices() -> None:
    model, tape = fresh("llada", "rtn-w8a8", target="triton"), Tape()
    model._replays = Replays(tape)
    ids, rows = masked_ids("llada", (2, 4), 0.5), torch.tensor([1, 5])
    assert model.cuda_graphs
    first = (model(ids).logits, model.logits_at(rows, ids), *model.greedy_at(rows, ids))
    again = (model(ids).logits, model.logits_at(rows, ids), *model.greedy_at(rows, ids))
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)
    assert tape.replayed == len(tape.recorded) == 3
    model.cuda_graphs = False
    model(ids)
    assert tape.replayed == 3
    model.cuda_graphs = True
    model.to("cpu")  # tensors may be elsewhere now
    model(ids)
    assert tape.replayed == 3


def test_other_targets_record_nothing() -> None:
    assert not fresh("llada", "rtn-w8a8", target="reference").cuda_graphs


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_graphs_compute_the_same_on_their_device() -> None:
    replays = Replays(CudaGraphs())
    weight = torch.randn(64, 64, device="cuda")

    def call(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x @ weight
        return y, y.amax(-1)

    for _ in range(4):
        x = torch.randn(16, 64, device="cuda")
        for found, expected in zip(replays(call, [x]), call(x), strict=True):
            torch.testing.assert_close(found, expected)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        x = torch.randn(16, 64, device="cuda")
        found, _ = replays(call, [x])
        torch.testing.assert_close(found, call(x)[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_compiled_model_on_its_device_replays_what_it_computes() -> None:
    model = fresh("llada", "rtn-w8a8", target="triton", device="cuda")
    rows = torch.tensor([1, 5], device="cuda")
    for seed in range(4):
        ids = masked_ids("llada", (2, 4), 0.5, seed=seed).cuda()
        model.cuda_graphs = True
        found = (model(ids).logits, model.logits_at(rows, ids), *model.greedy_at(rows, ids))
        model.cuda_graphs = False
        wanted = (model(ids).logits, model.logits_at(rows, ids), *model.greedy_at(rows, ids))
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other)
