"""The viewer tells the same as the terminal and the overlays: what changed, and where errors are."""

import dataclasses
from itertools import pairwise

from starquant_fx.inspection.difference import difference
from tests.inspection.browser.viewer import Viewer
from tests.inspection.recordings import transformer
from tests.inspection.test_recorder import recorded

LAYER = '[data-group="model.layers.0"]'


def test_every_stage_counts_the_changes_that_the_terminal_counts(viewer: Viewer) -> None:
    recording, _ = recorded("odd", "star-w4a4")
    viewer.open(recording)
    changed = 0
    for before, after in pairwise(recording.stages):
        counts = difference(before, after).counts
        signs = (("added", "+"), ("changed", "~"), ("removed", "\u2212"))
        told = "".join(f"{sign}{counts[kind]}" for kind, sign in signs if counts[kind])
        assert viewer.text(f'[data-stage="{after.name}"] .badges') == told, after.name
        changed += counts["changed"]
    assert changed
    assert difference(*recording.stages[:2]).counts["changed"]


def test_what_only_costs_more_has_not_changed(viewer: Viewer) -> None:
    recording = transformer(layers=1, stages=2)
    before, after = recording.stages
    costly = {n.name: dataclasses.replace(n, flops=7.0, made_by="x") for n in before.nodes.values()}
    stages = (before, dataclasses.replace(after, nodes=costly))
    viewer.open(dataclasses.replace(recording, stages=stages))
    viewer.stage(1)
    assert viewer.text("#stage-changes") == ""
    assert viewer.count("[data-change]") == 0


def test_errors_stand_on_quantized_products_only(viewer: Viewer) -> None:
    recording = transformer(layers=2)
    viewer.open(recording)
    assert "largest error" in panel_of(viewer, "model.layers.0")
    viewer.heat("error")
    assert viewer.count("#legend .swatch") > 1
    assert viewer.count(f"{LAYER}.hot") == 1
    viewer.search("norm_0")
    assert viewer.count('[data-node="norm_0"].hot') == 0
    viewer.search("quantized_q_0")
    assert viewer.count('[data-node="quantized_q_0"].hot') == 1
    assert viewer.count('[data-node="attention_0"].hot') == 0
    for stage in (0, 1):
        viewer.stage(stage)
        assert viewer.count(".hot") == 0
        assert "nothing is quantized" in viewer.text("#legend")
        assert "largest error" not in panel_of(viewer, "model.layers.0")


def panel_of(viewer: Viewer, group: str) -> str:
    viewer.search(group)
    assert viewer.text("#panel h2") == group
    return viewer.text("#panel")


def test_sqnr_of_a_broken_site_is_no_number(viewer: Viewer) -> None:
    recording = transformer(layers=1)
    name, site = next(iter(recording.sites.items()))
    for error, told in ((float("nan"), "not a ratio"), (0.0, "infinite"), (0.01, "20.0 dB")):
        broken = dataclasses.replace(site, error=error)
        viewer.open(dataclasses.replace(recording, sites={name: broken}))
        viewer.heat("error")
        viewer.search("quantized_q_0")
        assert f"SQNR{told}" in viewer.text("#panel")
