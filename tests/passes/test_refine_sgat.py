from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from starquant_fx.calibration.activations import FULL_PRECISION_STAGE
from starquant_fx.calibration.data import CalibrationData
from starquant_fx.calibration.fit_cache import FitCache
from starquant_fx.calibration.tac_run import TRANSFORMED_STAGE
from starquant_fx.errors import PassError
from starquant_fx.passes import InsertQuantizers, InsertSgat, RefineSgat
from starquant_fx.program import Program
from tests.small_programs import captured, continued, logits, rewritten, until

BEFORE = until("insert-quantizers")
SHORT = RefineSgat(epochs=3, batch=4, lr=5e-3)


def changed(before: Program, after: Program) -> set[str]:
    old, new = before.tensors(), after.tensors()
    return {n for n in new if not torch.equal(new[n], old[n])}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("odd", {}),
        ("dream", {}),
        ("odd", {"objective": "block"}),
        ("dream", {"objective": "block"}),
        ("bert", {"objective": "block"}),
    ],
)
def test_refinement_lowers_the_loss_and_keeps_the_bases_orthogonal(
    kind: str, options: dict[str, Any]
) -> None:
    program = rewritten(kind, BEFORE)
    after = continued(program, dataclasses.replace(SHORT, **options))
    assert set(after.stages) == {FULL_PRECISION_STAGE, TRANSFORMED_STAGE}
    refined = {w: f for w, f in after.findings.items() if "refined_after" in f}
    assert refined
    for found in refined.values():
        assert 0 < found["refined_after"] < found["refined_before"]
    names = changed(program, after)
    assert names
    for name in names:
        value = after.tensors()[name]
        if ".basis_" in name:
            assert float((value.mT @ value - torch.eye(len(value))).abs().max()) < 1e-5
        elif ".clip" in name:
            assert bool(((value > 0) & (value <= 1)).all())
        else:
            assert name.endswith(".state_bias")


def test_the_loss_is_the_divergence_of_masked_tokens() -> None:
    program = rewritten("dream", BEFORE)
    assert program.calibration is not None
    program.calibration.shifted = True
    after = continued(program, dataclasses.replace(SHORT, epochs=0))
    ids = program.calibration.batches[0]
    full, low = (
        logits(module, ids).log_softmax(-1)
        for module in (program.stages[FULL_PRECISION_STAGE], program.module)
    )
    apart = (full.exp() * (full - low)).sum(-1)
    apart = torch.cat([apart[:, :1], apart[:, :-1]], 1)  # shifted: the column before speaks
    parts = [
        apart[rows][ids[rows] == program.mask_token_id].mean()
        for rows in torch.arange(len(ids)).split(SHORT.batch)
    ]
    expected = float(torch.stack(parts).mean())
    assert after.findings["model"]["refined_before"] == pytest.approx(expected, rel=1e-3)
    assert not changed(program, after)


def test_a_batch_without_masked_tokens_matches_nothing() -> None:
    program = rewritten("odd", BEFORE)
    data, mask = program.calibration, program.mask_token_id
    assert data is not None
    assert mask is not None
    ids = data.batches[0]
    clean = ids.masked_fill(ids.eq(mask), 0)
    after = continued(dataclasses.replace(program, calibration=CalibrationData([clean])), SHORT)
    assert after.findings["model"]["refined_before"] == 0
    assert not changed(program, after)


def test_texts_are_masked_anew_for_every_step() -> None:
    data = captured("odd").calibration
    assert data is not None
    rows = torch.tensor([3, 1, 2])
    assert torch.equal(data.masked_anew(rows, 60, 0)[0], data.batches[0][rows])
    data.texts = [torch.randint(0, 60, (8, 16))]
    first, again, other = (data.masked_anew(rows, 60, seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    kept = first != 60
    assert torch.equal(first[kept], data.texts[0][rows][kept])
    ids, states = data.masked_anew(rows, None, 0)
    assert states is not None
    assert torch.equal(ids, data.texts[0][rows])
    assert torch.equal(states == 1, ~kept)


def test_refinement_is_deterministic_and_depends_on_the_seed() -> None:
    program = rewritten("odd", BEFORE)
    one = dataclasses.replace(SHORT, epochs=1)
    first, again = (continued(program, one).tensors() for _ in range(2))
    assert all(torch.equal(first[n], again[n]) for n in first)
    other = continued(program, dataclasses.replace(one, seed=1)).tensors()
    assert any(not torch.equal(first[n], other[n]) for n in first)


def test_blocks_may_read_full_precision() -> None:
    program = rewritten("llada", BEFORE)
    one = RefineSgat(objective="block", epochs=1)
    sequential = continued(program, one)
    apart = continued(program, dataclasses.replace(one, inputs="full"))
    first, second = sorted(w for w, f in apart.findings.items() if "refined_after" in f)[:2]
    assert sequential.findings[first] == apart.findings[first]
    assert sequential.findings[second]["refined_before"] > apart.findings[second]["refined_before"]


def test_what_was_refined_is_not_refined_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = rewritten("odd", BEFORE)
    program.cache = FitCache(tmp_path)
    first = continued(program, SHORT)
    monkeypatch.setattr("starquant_fx.passes.refine_sgat.refine", None)
    second = continued(program, SHORT)
    assert not changed(first, second)
    assert first.findings == second.findings
    with pytest.raises(TypeError):
        continued(program, dataclasses.replace(SHORT, seed=1))


def test_a_rotation_that_nothing_learned_has_nothing_to_refine() -> None:
    passes = (*until("insert-partition"), InsertSgat(structure="hadamard"), InsertQuantizers())
    program = rewritten("odd", passes)
    after = continued(program, SHORT)
    assert not changed(program, after)


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "site"},
        {"inputs": "half"},
        {"epochs": -1},
        {"batch": 0},
        {"lr": float("nan")},
        {"samples": 0},
        {"seed": -1},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(PassError, match="refine-sgat"):
        RefineSgat(**options).check_options()
