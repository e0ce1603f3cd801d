"""Node data for Model Explorer."""

from __future__ import annotations

import dataclasses
import json
import math

from starquant_fx.inspection.collection import to_collection
from starquant_fx.inspection.overlays import overlays
from tests.inspection.small import recording


def test_ids_are_those_of_the_collection() -> None:
    one = recording()
    graphs = {g["id"]: {n["id"] for n in g["nodes"]} for g in to_collection(one)["graphs"]}
    for measure, data in overlays(one).items():
        assert list(data) == list(graphs)
        for key, graph in data.items():
            assert set(graph["results"]) <= graphs[key], measure


def test_the_error_of_a_site_stands_on_its_products_and_only_where_they_are_quantized() -> None:
    errors = overlays(recording())["error"]
    assert errors["01 assign-roles"]["results"] == {}
    assert errors["02 fuse"]["results"] == {
        f"low_{role}_{layer}": {"value": error}
        for layer, of_qkv, of_o in ((0, 0.01, 0.02), (1, 0.03, 0.04))
        for role, error in (("q", of_qkv), ("k", of_qkv), ("v", of_qkv), ("o", of_o))
    }


def test_bits_are_the_fewest_or_those_of_the_type() -> None:
    results = overlays(recording())["bits"]["02 fuse"]["results"]
    assert results["low_q_0"] == {"value": 4}
    assert results["codes_q_proj_0"] == {"value": 4}
    assert results["head"] == {"value": 16}
    assert results["cos"] == {"value": 32}
    assert "view_0" not in results


def test_gradients_go_from_the_least_to_the_most() -> None:
    for data in overlays(recording()).values():
        for graph in data.values():
            stops = [one["stop"] for one in graph["gradient"]]
            assert stops[0] == 0
            assert stops[-1] == 1
            assert stops == sorted(stops)
            assert all(set(one) == {"stop", "bgColor"} for one in graph["gradient"])


def test_what_was_not_measured_has_no_overlay_and_what_is_not_finite_no_value() -> None:
    assert set(overlays(recording(measured=False))) == {"bytes", "flops", "bits"}
    one = recording()
    name = "model.layers.0.o_proj"
    broken = dataclasses.replace(one.sites[name], error=math.inf)
    found = overlays(dataclasses.replace(one, sites={**one.sites, name: broken}))
    assert "low_o_0" not in found["error"]["02 fuse"]["results"]
    json.dumps(found, allow_nan=False)
