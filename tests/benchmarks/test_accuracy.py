"""The accuracy benchmark: its models, its recipes, its arithmetic, and that it goes on where it was stopped."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import accuracy
import pytest
import torch

from accuracy_suite import runs
from accuracy_suite.hardened import harden
from accuracy_suite.runs import Job, Setting, run_all
from accuracy_suite.tables import summary, table
from accuracy_suite.variants import QUICK, TABLES
from starquant_fx.errors import InputError, RecipeError
from starquant_fx.pass_manager import check_order
from starquant_fx.recipes import from_dict, get_recipe
from tests.small_models import masked_ids, model
from tests.small_programs import logits, relative, rewritten, until


def figures(gap: list[float], full: list[float], **more: Any) -> dict[str, Any]:
    rest = {"top1": [0.5, 0.75], "kl": [0.1, 0.2], "weights_mb": 1.5, "extra_work": 0.025}
    return {"gap": gap, "nelbo_full": full, "divergence": [2 * g for g in gap], **rest, **more}


@pytest.mark.parametrize("kind", ["llada", "dream"])
def test_hardening_keeps_the_function_and_makes_outliers(kind: str) -> None:
    plain, ids = model(kind), masked_ids(kind, (2, 9), 0.5)
    hard = harden(plain)
    assert relative(logits(hard, ids), logits(plain, ids)) < 1e-4
    loud, quiet = (
        [
            float(p.detach().abs().max() / p.detach().abs().mean())
            for n, p in m.named_parameters()
            if "up_proj" in n
        ]
        for m in (hard, plain)
    )
    assert len(loud) > 1
    assert all(a > 3 * b for a, b in zip(loud, quiet, strict=True))
    changed = {
        name.rpartition(".")[0].rpartition(".")[2]
        for (name, a), b in zip(hard.named_parameters(), plain.parameters(), strict=True)
        if not torch.equal(a, b)
    }
    assert len(changed) == 4, "up, down, v and the output projection"


def test_a_model_without_blocks_to_harden_is_refused() -> None:
    with pytest.raises(InputError, match="no blocks to harden"):
        harden(model("bert"))


@pytest.mark.parametrize("name", TABLES)
def test_every_row_is_a_recipe_of_its_own_that_can_run(name: str) -> None:
    variants = TABLES[name]()
    assert len({v.label for v in variants}) == len(variants) > 1
    texts = {json.dumps(v.recipe.to_dict(), sort_keys=True) for v in variants}
    assert len(texts) == len(variants)
    for variant in variants:
        check_order(variant.recipe.passes)
        assert from_dict(json.loads(json.dumps(variant.recipe.to_dict()))) == variant.recipe


def test_the_quick_recipes_are_what_their_keys_say() -> None:
    built = {key: make() for key, make in QUICK.items()}
    assert built["gap_star"] == get_recipe("star-w4a4")
    assert "insert-tac" not in [p.name for p in built["gap_star_no_tac"].passes]
    (sgat,) = (p for p in built["gap_star_no_gates"].passes if p.name == "insert-sgat")
    assert sgat.rank == 0  # type: ignore[attr-defined]


def test_the_summary_by_hand() -> None:
    rows = {
        "gap_rtn": [figures([1.0, 1.0], [4.0, 5.0]), figures([0.4, 0.6], [4.0, 5.0])],
        "w8a8_gap_percent": [figures([0.1, 0.0], [4.0, 5.0])],
    }
    assert summary(rows) == {
        "gap_rtn": pytest.approx(0.75),
        "w8a8_gap_percent": pytest.approx(100 * 0.05 / 4.5),
    }


def test_a_table_has_mean_spread_interval_and_distance() -> None:
    rows = {
        "star": [figures([0.5, 0.5], [4.0, 5.0]), figures([0.5, 0.5], [4.0, 5.0])],
        "rtn": [figures([1.0, 1.0], [4.0, 5.0]), figures([1.2, 1.2], [4.0, 5.0])],
    }
    text = table("t", rows, "star")
    assert "KL minus star's" in text
    (star,) = (row for row in text.splitlines() if row.startswith("| star"))
    assert "+0.5000 ± 0.0000 | [+0.5000, +0.5000] | - | 1.0000 ± 0.0000 | - |" in star
    (line,) = (row for row in text.splitlines() if row.startswith("| rtn"))
    assert "+1.1000 ± 0.1414 | [+1.1000, +1.1000] | +0.6000 [" in line
    assert "| 2.2000 ± 0.2828 | +1.2000 [" in line
    assert "50.0 / 75.0" in line
    assert line.endswith("| 1.50 | 2.5 % |")


@pytest.mark.parametrize("name", TABLES)
def test_rows_are_compared_with_star_as_shipped_where_it_is_one(name: str) -> None:
    rows = TABLES[name]()
    shipped = [get_recipe("star-w4a4"), get_recipe("star-w8a8")]
    stars = [row.label for row in rows if row.recipe in shipped]
    found = accuracy.against(rows)
    assert found in stars if stars else found == rows[0].label


def test_extra_work_by_hand() -> None:
    program = rewritten("odd", until("insert-tac"))
    own = plain = 0
    for site in program.quantized_sites():
        plain += site.features * sum(site.outputs)
        for node in program.site_nodes(site, "rotate"):
            factors: Any = node.args[1]
            own += site.features * sum(program.tensor(f).shape[0] for f in factors)
        for node in program.site_nodes(site, "tac"):
            matrix: Any = node.args[1]
            own += site.features * program.tensor(matrix).shape[-1]
        for node in program.site_nodes(site, "split"):
            # Coefficients, what they take off the input, and what they add to the outputs.
            channels = 2 * site.features + sum(site.outputs)
            own += program.tensor(node.args[2]).shape[-1] * channels  # type: ignore[arg-type]
    assert own
    assert runs.extra_work(program) == pytest.approx(own / plain)


def test_rotations_of_duquant_are_extra_work() -> None:
    recipe = get_recipe("duquant-w4a4")
    program = rewritten("odd", until("fold-sgat", recipe), recipe)
    sites = list(program.quantized_sites())
    blocks = {s.name: program.tensor(program.site_nodes(s, "turn")[0].args[1][0]) for s in sites}  # type: ignore[index,arg-type]
    own = sum(2 * s.features * blocks[s.name].shape[-1] for s in sites)
    assert runs.extra_work(program) == pytest.approx(
        own / sum(s.features * sum(s.outputs) for s in sites)
    )


def test_what_was_measured_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [Job("m", get_recipe("rtn-w4a4").seeded(s), s, Setting()) for s in (0, 1)]
    cache = tmp_path / "cache.jsonl"
    rows = [{"key": job.key("code"), "figures": {"seed": job.seed}} for job in jobs]
    cache.write_text("\n".join(map(json.dumps, rows)) + '\n{"key": "cut')

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(runs.ProcessPoolExecutor, "submit", refuse)
    found = {job.seed: figures for job, figures in run_all(jobs, cache, "code", 1)}
    assert found == {0: {"seed": 0}, 1: {"seed": 1}}
    assert cache.read_text().endswith("\n"), "the next line must not be joined to a cut one"
    with pytest.raises(AssertionError, match="measured again"):
        list(run_all(jobs, cache, "other code", 1))


def test_another_model_in_the_same_folder_is_measured_again(tmp_path: Path) -> None:
    job = Job(str(tmp_path), get_recipe("rtn-w4a4"), 0, Setting())
    keys = set()
    for weights in (b"one", b"two"):
        (tmp_path / "model.safetensors").write_bytes(weights)
        runs.model_hash.cache_clear()
        keys.add(job.key("code"))
    assert len(keys) == 2


def test_a_failing_recipe_does_not_lose_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [Job(name, get_recipe("rtn-w4a4"), 0, Setting()) for name in ("good", "bad", "fine")]

    class Pool(ThreadPoolExecutor):
        def __init__(self, workers: int, mp_context: object) -> None:
            super().__init__(workers)

    def measure(sent: Any, fits: Path) -> list[dict[str, Any]]:
        if sent[0][0] == "bad":
            raise RecipeError("it fails")
        return [{"model": sent[0][0]}]

    monkeypatch.setattr(runs, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(runs, "_run", measure)
    found: list[dict[str, Any]] = []
    with pytest.raises(RecipeError, match="it fails"):
        found.extend(figures for _, figures in run_all(jobs, tmp_path / "c.jsonl", "code", 1))
    kept = [json.loads(line)["figures"]["model"] for line in (tmp_path / "c.jsonl").open()]
    assert sorted(kept) == ["fine", "good"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tables", "mian"], "did you mean 'main'"),
        (["--json", "x.json"], "add --quick"),
        (["--quick", "--json", "no/such/x.json"], "cannot be written here"),
        (["--models", "lada-tiny"], "lada-tiny"),
        (["--segments", "1"], "--segments"),
        (["--seeds", "0"], "--seeds"),
        (["--quick", "--tables", "main"], "a table of its own"),
    ],
)
def test_bad_arguments_are_refused(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert accuracy.main([*arguments, "--cache", str(tmp_path / "c.jsonl")]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.json"))


def test_a_cache_that_is_a_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert accuracy.main(["--cache", str(tmp_path)]) == 2
    assert "the cache is a folder" in capsys.readouterr().err


def test_a_group_is_of_one_model_and_seed() -> None:
    recipe = get_recipe("rtn-w4a4")
    jobs = [Job(m, recipe, s, Setting()) for s in (0, 1) for m in ("a", "b") for _ in range(3)]
    groups = runs.grouped(jobs, 2)
    assert [len(group) for group in groups] == [2, 1] * 4
    assert sorted(map(id, jobs)) == sorted(id(job) for group in groups for job in group)
    for group in groups:
        assert len({(job.model, job.seed) for job in group}) == 1


@pytest.mark.slow
def test_one_run_end_to_end(tmp_path: Path) -> None:
    setting = Setting("validation", 4, 64, 1)
    names = ("rtn-w4a4", "rtn-w8a8")
    jobs = [Job("dream-tiny", get_recipe(name), 0, setting) for name in names]
    found = {job: figures for job, figures in run_all(jobs, tmp_path / "c.jsonl", "code", 1)}
    measured, fine = (found[job] for job in jobs)
    assert sum(fine["divergence"]) < 0.1 * sum(measured["divergence"])
    assert torch.tensor(measured["divergence"]).mean() > 0.01
    assert len(measured["gap"]) == len(measured["nelbo_full"]) == 4
