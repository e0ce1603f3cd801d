from __future__ import annotations

import pytest
import torch

from starquant_fx.calibration.activations import site_activations, token_labels
from starquant_fx.calibration.data import CalibrationData
from starquant_fx.errors import CalibrationError
from starquant_fx.passes import InsertTokenState
from starquant_fx.program import facts
from tests.small_models import MASK, masked_ids
from tests.small_programs import calibration, continued, rewritten, site_of, until, values

BATCHES = [torch.arange(40).view(10, 4), torch.arange(9).view(3, 3)]


@pytest.mark.parametrize("batches", [[], [torch.zeros(0, 4).long()], [torch.zeros(2, 0).long()]])
def test_empty_data_is_refused(batches: list[torch.Tensor]) -> None:
    with pytest.raises(CalibrationError, match="the calibration data is empty"):
        CalibrationData(batches)


def test_chunks_cover_every_sequence_once_and_in_order() -> None:
    data = CalibrationData(BATCHES)
    assert data.tokens == 49
    chunks = [ids for ids, _ in data.chunks(4)]
    assert [tuple(c.shape) for c in chunks] == [(4, 4), (4, 4), (2, 4), (3, 3)]
    assert torch.equal(torch.cat(chunks[:3]), BATCHES[0])


def test_a_subset_is_sorted_random_and_fixed_by_the_seed() -> None:
    first, again, other = (CalibrationData(BATCHES, max_tokens=12, seed=s) for s in (0, 0, 1))
    assert torch.equal(first.subset(), again.subset())
    assert not torch.equal(first.subset(), other.subset())
    assert first.subset().shape == (12,)
    assert bool((first.subset().diff() > 0).all())
    assert torch.equal(CalibrationData(BATCHES).subset(), torch.arange(49))


def test_cached_activations_are_those_of_the_subset_in_every_chunk() -> None:
    program = rewritten("odd", until("assign-roles"))
    ids = masked_ids("odd", (20, 6), 0.5)
    program.calibration = CalibrationData([ids], max_tokens=31)
    site = site_of(program, "down")
    node = next(n for n in program.graph.nodes if facts(n).get("feeds") == site.name)
    (expected,) = values(program.module, [node], ids)
    keep = program.calibration.subset()
    cached = {s.name: (x, label) for s, x, label in site_activations(program)}
    x, label = cached[site.name]
    torch.testing.assert_close(x, expected.flatten(0, 1)[keep])
    assert torch.equal(label, (ids == MASK["odd"]).long().flatten()[keep])


def test_labels_know_the_bucket_of_each_sequence() -> None:
    program = rewritten("odd", until("assign-roles"))
    program = continued(program, InsertTokenState(edges=(0.5,)))
    ids = torch.tensor([[60, 1, 2, 3], [60, 60, 60, 3]])
    program.calibration = CalibrationData([ids])
    assert token_labels(program).tolist() == [1, 0, 0, 0, 3, 3, 3, 2]
    program.calibration = CalibrationData([ids], [torch.tensor([[0, 1, 1, 1], [0, 0, 0, 0]])])
    assert token_labels(program).tolist() == [2, 3, 3, 3, 0, 0, 0, 0]


def test_activations_that_are_not_finite_are_refused() -> None:
    program = rewritten("odd", until("assign-roles"))
    program.calibration = calibration("odd")  # of its own: activations are collected once
    site = site_of(program, "gate")
    stage = program.stages["assign-roles"]
    node = next(n for n in stage.graph.nodes if facts(n).get("feeds") == site.name)
    with stage.graph.inserting_after(node):
        spoiled = stage.graph.call_function(torch.ops.aten.div.Scalar, (node, 0.0))
    spoiled.meta = dict(node.meta)
    node.meta = {}
    stage.recompile()
    with pytest.raises(CalibrationError, match="not finite") as caught:
        list(site_activations(program))
    assert caught.value.where == site.name
