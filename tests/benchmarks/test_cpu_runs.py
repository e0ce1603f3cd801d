"""The CPU benchmark from end to end: ``--quick`` in this process, processes of their own, and what is made again."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cpu
import pytest
import torch

from cpu_suite import int8_limit, measure, options, prepare, sources
from cpu_suite.served import Served
from cpu_suite.specs import MODELS, Place
from cpu_suite.variants import FULL, HEADLINE, LIMIT, VARIANTS, Variant

TINY = MODELS["2x128"]
WANTED = {
    *("w4a4_vs_bf16", "w4a4_vs_fp32", "w4a4_vs_best_peer"),
    *("weights_vs_bf16", "time_vs_int8_ceiling"),
}


class Here:
    """A worker without a process of its own, which would load PyTorch again; one request at a time."""

    lock = threading.Lock()
    asked: list[tuple[str, str]] = []  # noqa: RUF012

    def __init__(self, variant: Variant, place: Place, patience: float) -> None:
        self.variant, self.served = variant, Served(variant, place)

    def ask(self, request: str, *arguments: Any) -> Any:
        with self.lock, torch.no_grad():
            self.asked.append((self.variant.name, request))
            return getattr(self.served, request)(*arguments)

    def interrupt(self) -> None:
        pass

    def stop(self) -> None:
        pass


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """Workers in this process, and what they are asked."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(Here, "asked", [])
    monkeypatch.setattr(measure, "Worker", Here)
    monkeypatch.setattr(prepare, "Worker", Here)
    yield Here.asked
    torch.set_num_threads(threads)


def test_quick_writes_both_pairs_and_a_summary_of_every_number_of_threads(
    here: list[tuple[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    some = [VARIANTS[name] for name in (LIMIT, "bf16", FULL, HEADLINE)]  # without torch.compile
    monkeypatch.setattr(options, "chosen", lambda _: some)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    file = tmp_path / "quick.json"
    arguments = ["--quick", "--models", "2x128", "--tokens", "1x16", "--repeats", "2"]
    assert cpu.main([*arguments, "--threads", "1,2", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    paired = [(False, v.name) for v in some]
    paired += [(True, v.name) for v in some if v.name != FULL]
    rows = [(r["threads"], r["masked"], r["variant"]) for r in found["rows"]]
    assert rows == [(threads, *one) for threads in (1, 2) for one in paired]
    for row in found["rows"]:
        assert not row["reason"], row
        assert len(row["seconds"]) == 2
        assert row["load_seconds"] > 0
        assert row["first_seconds"] > 0
        assert (row["peak_bytes"] is None) == row["masked"]
        if row["variant"] == HEADLINE:
            assert 0 < row["error"] < 0.5
    others = found["summary_by_threads"]
    assert list(others) == ["2"]
    for summary in (found["summary"], others["2"]):
        assert set(summary) >= WANTED
        known = {key for key, value in summary.items() if value is not None}
        assert {*WANTED, "masked_w4a4_vs_bf16"} - known == {"w4a4_vs_best_peer"}
    assert found["wall_seconds"] > 0
    out = capsys.readouterr()
    assert f"the whole run took {found['wall_seconds']:.0f} s" in out.err
    assert out.out.count("2 threads, logits of the masked tokens") == 1
    assert here.count((HEADLINE, "prepare")) == 1  # for both numbers of threads


def test_what_other_code_made_is_made_again(
    here: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path, TINY, 1)
    for code, times in (("a", 1), ("a", 1), ("b", 2)):
        monkeypatch.setattr(prepare, "code_hash", lambda _, code=code: code)
        assert prepare.prepare(place, [], 60, lambda _: None) == {}
        assert here.count(("weights", "prepare")) == times


def test_the_hash_is_of_all_sources_also_behind_links(tmp_path: Path) -> None:
    (tmp_path / "package" / "data").mkdir(parents=True)
    (tmp_path / "kernels").mkdir()
    (tmp_path / "package" / "kernels").symlink_to("../kernels")
    for name in ("package/a.py", "kernels/k.cpp", "kernels/k.h", "package/data/text.txt"):
        (tmp_path / name).touch()
    folder = tmp_path / "package"
    found = [str(path.relative_to(folder)) for path in sources.sources(folder)]
    assert found == ["a.py", "kernels/k.cpp", "kernels/k.h"]
    assert len(sources.code_hash()) == 64


def test_the_limit_takes_the_faster_product_of_each_size(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randint(-9, 10, (32, 16), dtype=torch.int8)
    exact = int8_limit._tokens(8, 32).int() @ weight.int()
    assert torch.equal(int8_limit.plain(8, weight)(), exact)
    if int8_limit.prepacks():
        unsigned = int8_limit._tokens(8, 32).view(torch.uint8).int() @ weight.int()
        torch.testing.assert_close(
            int8_limit.prepacked(8, weight)().float(), unsigned.float(), rtol=0.01, atol=1
        )
    by_size = {16: int8_limit.PLAIN, 8: int8_limit.PREPACKED}
    monkeypatch.setattr(int8_limit, "_fastest", lambda rows, _: by_size[rows])
    monkeypatch.setattr(
        int8_limit, "WAYS", dict.fromkeys(int8_limit.WAYS, lambda *_: lambda: weight)
    )
    runner = int8_limit.build(Place(Path(), TINY, 1))
    runner.forward(torch.zeros(1, 16, dtype=torch.int64), torch.arange(8))
    assert "14 by _int_mm, 1 by onednn" in runner.note()
    monkeypatch.undo()
    monkeypatch.setattr(int8_limit, "prepacks", lambda: False)
    assert int8_limit._fastest(8, weight) == int8_limit.PLAIN


@pytest.mark.slow
@pytest.mark.parametrize("logits", ["both", "masked"])
def test_from_end_to_end(
    logits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(measure, "ANCHORS", ("int8 limit", "bf16"))  # without torch.compile
    absent = Variant("absent peer", "peer", "nothing", needs=("no_such_package_at_all",))
    found = [VARIANTS[n] for n in ("int8 limit", "bf16", FULL)]
    ours = Variant("rtn", "ours", "ours", ("rtn-w4a4",), prepared=True)  # star's fits take longer
    monkeypatch.setattr(options, "chosen", lambda _: [*found, ours, absent])
    file = tmp_path / "rows.json"
    arguments = ["--models", "2x128", "--tokens", "1x8,1x16", "--repeats", "2"]
    assert cpu.main([*arguments, "--logits", logits, "--json", str(file)]) == 0
    assert list((tmp_path / "temporary").iterdir()) == []
    rows = json.loads(file.read_text())["rows"]
    names = ["int8 limit", "bf16", "fp32", "rtn", "absent peer"]
    others = names[:2] if logits == "both" else []  # of the masked tokens too
    assert [(r["shape"], r["variant"]) for r in rows] == [
        (shape, name) for shape in ("1x8", "1x16") for name in (*names, *others)
    ]
    out = capsys.readouterr()
    assert "| absent peer | not measured: no_such_package_at_all is not installed |" in out.out
    assert "round 2 of 2" in out.err
    plain = sum(i * o for i, o in TINY.linears)
    for start in (0, len(names) + len(others)):
        some = rows[start : start + len(names)]
        limit, bf16, full, ours, _ = some
        assert all(len(r["seconds"]) == 2 and not r["reason"] for r in some[:4]), some
        assert limit["error"] is None
        assert full["error"] == 0
        assert 0 < bf16["error"] < 0.02 < ours["error"] < 0.5
        assert (bf16["weight_bytes"], full["weight_bytes"]) == (2 * plain, 4 * plain)
        assert plain / 2 < ours["weight_bytes"] < plain
        assert bf16["ratio"] == pytest.approx(1)
        assert 0 < ours["share"] < 1
        assert min(r["peak_bytes"] for r in some[:4]) > 50e6
