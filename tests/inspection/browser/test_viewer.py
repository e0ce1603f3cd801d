"""The viewer in a real browser."""

from itertools import pairwise

import pytest

from tests.inspection.browser.viewer import Viewer
from tests.inspection.recordings import one_node, transformer

LEFT, RIGHT, UP, DOWN = "\ue012", "\ue014", "\ue013", "\ue015"
ENTER, ESCAPE = "\ue007", "\ue00c"
HOSTILE = '</script><img src=x onerror="window.hit=1">\'"]\\{{data}}\n<svg onload=window.hit=1>'
LAYER = '[data-group="model.layers.0"]'


def test_starts_with_the_layers_collapsed(viewer: Viewer) -> None:
    viewer.open(transformer())
    layers = viewer.count('[data-group^="model.layers."]')
    assert layers == 6
    assert viewer.count('[data-node="attention_0"]') == 0
    assert viewer.text("#stage-name") == "fuse"
    assert viewer.driver.title == "tiny by-hand"


def test_a_layer_expands_and_collapses(viewer: Viewer) -> None:
    viewer.open(transformer())
    viewer.toggle("model.layers.0")
    viewer.toggle("model.layers.0.attn")
    assert viewer.count('[data-node="attention_0"]') == 1
    assert viewer.count('[data-node="attention_1"]') == 0
    viewer.toggle("model.layers.0")
    assert viewer.count('[data-node="attention_0"]') == 0


def test_what_is_expanded_stays_where_it_is(viewer: Viewer) -> None:
    viewer.open(transformer(layers=2))
    left, top, *_ = viewer.box(f"{LAYER} > .body")
    viewer.toggle("model.layers.0")
    after = viewer.box(f"{LAYER} > .body")
    assert after[1] <= top
    assert after[1] > 90
    assert after[0] <= left


def test_search_jumps_to_a_node(viewer: Viewer) -> None:
    viewer.open(transformer())
    viewer.search("attention_3")
    node = '[data-node="attention_3"]'
    assert viewer.text("#panel h2") == "attention_3"
    assert "selected" in (viewer.find(node).get_attribute("class") or "")
    left, top, right, bottom = viewer.box(node)
    graph = viewer.box("#graph")
    assert abs((left + right) - (graph[0] + graph[2])) < 8
    assert graph[1] < top
    assert bottom < graph[3]


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("quantized_linear layers.2", "quantized_q_2"),
        ("layers.4.attn.k.weight", "quantized_k_4"),
        ("starquant.token_state", "state"),
        ("model.layers.5.attn", "model.layers.5.attn"),
    ],
)
def test_search_finds_by_all_that_a_node_has(viewer: Viewer, query: str, first: str) -> None:
    viewer.open(transformer())
    viewer.search(query)
    assert viewer.text("#panel h2") == first


def test_search_finds_what_only_another_stage_has(viewer: Viewer) -> None:
    viewer.open(transformer())
    viewer.search("linear_q_1")
    assert viewer.text("#stage-name") == "insert-0"
    assert viewer.text("#panel h2") == "linear_q_1"


def test_stages_color_what_their_pass_did(viewer: Viewer) -> None:
    viewer.open(transformer(layers=2))
    viewer.search("quantized_q_0")
    assert viewer.count('[data-node="quantized_q_0"][data-change="added"]') == 1
    assert viewer.count('[data-node="linear_q_0"][data-change="removed"]') == 1
    added = viewer.color('[data-node="quantized_q_0"] > .body')
    gone = viewer.color('[data-node="linear_q_0"] > .body')
    viewer.stage(1)
    assert viewer.count('[data-node="quantized_q_0"]') == 0
    assert viewer.count('[data-node="linear_q_0"][data-change="changed"]') == 1
    changed = viewer.color('[data-node="linear_q_0"] > .body')
    viewer.stage(0)
    assert viewer.count("[data-change]") == 0
    plain = viewer.color('[data-node="linear_q_0"] > .body')
    assert len({added, gone, changed, plain}) == 4


def test_counts_of_changes_are_shown(viewer: Viewer) -> None:
    viewer.open(transformer(layers=2))
    assert viewer.text("#stage-changes") == "+6~2−8"
    assert viewer.text(f"{LAYER} .badges") == "+3~1−4"
    assert viewer.text('[data-stage="insert-0"] .badges') == "+2~6"


def test_expansion_and_selection_stay_when_the_stage_changes(viewer: Viewer) -> None:
    viewer.open(transformer(layers=2))
    viewer.search("attention_1")
    before = viewer.box('[data-node="attention_1"] > .body')
    viewer.stage(0)
    assert viewer.text("#panel h2") == "attention_1"
    assert viewer.box('[data-node="attention_1"] > .body')[:2] == before[:2]
    assert viewer.count(".selected") == 1


def test_the_panel_tells_where_a_node_comes_from(viewer: Viewer) -> None:
    viewer.open(transformer(layers=2))
    viewer.search("quantized_q_1")
    panel = viewer.text("#panel")
    for part in (
        "starquant.quantized_linear",
        "w4a4",
        "kronecker 8x8",
        "27.0 dB",
        "49.2 kB → 12.3 kB",
    ):
        assert part in panel
    viewer.press_link("norm_1")
    assert viewer.text("#panel h2") == "norm_1"


def test_provenance_leads_to_the_stage_before(viewer: Viewer) -> None:
    viewer.open(transformer(layers=2))
    viewer.search("quantized_q_1")
    assert "Made by fuse from:linear_q_1" in viewer.text("#panel")
    viewer.press_link("linear_q_1")
    assert viewer.text("#panel h2") == "linear_q_1"
    assert viewer.text("#stage-name") == "insert-0"
    assert "There since capture." in viewer.text("#panel")
    assert "Changed by insert-0" in viewer.text("#panel")
    viewer.press_link("capture")
    assert viewer.text("#stage-name") == "capture"
    assert viewer.text("#panel h2") == "linear_q_1"


def test_a_group_sums_what_is_in_it(viewer: Viewer) -> None:
    recording = transformer(layers=2)
    viewer.open(recording)
    viewer.select("model.layers.0")
    inside = [n for n in recording.last.nodes.values() if n.module.startswith("model.layers.0")]
    panel = viewer.text("#panel")
    assert viewer.text("#panel h2") == "model.layers.0"
    assert f"{sum(n.flops or 0 for n in inside) / 1000:.0f}" in panel
    assert "starquant.quantized_linear" in panel
    assert "1 site" in panel


@pytest.mark.parametrize("kind", ["error", "bytes", "flops", "bits"])
def test_heat_colors_boxes_and_has_a_legend(viewer: Viewer, kind: str) -> None:
    viewer.open(transformer())
    plain = viewer.color(f"{LAYER} > .body")
    viewer.heat(kind)
    assert viewer.color(f"{LAYER} > .body") != plain
    assert viewer.count("#legend .swatch") >= 1
    viewer.heat("none")
    assert viewer.color(f"{LAYER} > .body") == plain


def test_heat_of_error_differs_between_layers(viewer: Viewer) -> None:
    viewer.open(transformer())
    viewer.heat("error")
    seen = {viewer.color(f'[data-group="model.layers.{i}"] > .body') for i in range(6)}
    assert len(seen) == 6


def test_heat_says_where_nothing_was_measured(viewer: Viewer) -> None:
    viewer.open(one_node("plain"))
    viewer.heat("error")
    assert "not measured" in viewer.text("#legend")


def test_keys(viewer: Viewer) -> None:
    viewer.open(transformer())
    viewer.press(LEFT)
    assert viewer.text("#stage-name") == "insert-0"
    viewer.press(RIGHT)
    assert viewer.text("#stage-name") == "fuse"
    viewer.press("/")
    assert viewer.run("return document.activeElement.id") == "search"
    viewer.press("model.layers.2", ENTER)
    assert viewer.text("#panel h2") == "model.layers.2"
    viewer.press(ENTER)
    assert viewer.count('[data-group="model.layers.2.attn"]') == 1
    viewer.press(ENTER)
    assert viewer.count('[data-group="model.layers.2.attn"]') == 0
    viewer.press(DOWN)
    assert viewer.text("#panel h2") == "model.layers.3"
    viewer.press(UP)
    assert viewer.text("#panel h2") == "model.layers.2"
    viewer.press("?")
    assert viewer.count("dialog[open]") == 1
    viewer.press(ESCAPE)
    assert viewer.count("dialog[open]") == 0
    viewer.press(ESCAPE)
    assert viewer.text("#panel .kind").strip() == "recording"


def test_zoom_keys_and_fit(viewer: Viewer) -> None:
    viewer.open(transformer())
    widths = [viewer.box(f"{LAYER} > .body")]
    for key in ("+", "-", "-"):
        viewer.press(key)
        widths.append(viewer.box(f"{LAYER} > .body"))
    first, larger, same, smaller = (right - left for left, _, right, _ in widths)
    assert smaller < first < larger
    assert abs(first - same) <= 1
    viewer.press("f")
    left, top, right, bottom = viewer.box("#content")
    graph = viewer.box("#graph")
    assert graph[0] <= left < right <= graph[2]
    assert graph[1] <= top < bottom <= graph[3]


def test_a_drag_moves_and_selects_nothing(viewer: Viewer) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    viewer.open(transformer())
    before = viewer.box(f"{LAYER} > .body")
    box = viewer.find(f"{LAYER} > .body")
    ActionChains(viewer.driver).click_and_hold(box).move_by_offset(40, 25).release().perform()
    after = viewer.box(f"{LAYER} > .body")
    assert (after[0] - before[0], after[1] - before[1]) == (40, 25)
    assert viewer.text("#panel .kind").strip() == "recording"


def test_the_wheel_zooms_at_the_pointer(viewer: Viewer) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    viewer.open(transformer())
    before = viewer.box(f"{LAYER} > .body")
    origin = ScrollOrigin.from_element(viewer.find(f"{LAYER} > .body"))
    ActionChains(viewer.driver).scroll_from_origin(origin, 0, -300).perform()
    after = viewer.box(f"{LAYER} > .body")
    assert after[2] - after[0] > 1.3 * (before[2] - before[0])
    assert abs(sum(after[::2]) - sum(before[::2])) < 6
    assert abs(sum(after[1::2]) - sum(before[1::2])) < 6


def test_two_fingers_zoom(viewer: Viewer) -> None:
    viewer.open(transformer())
    before = viewer.box(f"{LAYER} > .body")
    viewer.touch("touchStart", (300, 400), (500, 400))
    viewer.touch("touchMove", (280, 400), (520, 400))
    viewer.touch("touchMove", (200, 400), (600, 400))
    viewer.touch("touchEnd")
    after = viewer.box(f"{LAYER} > .body")
    assert (after[2] - after[0]) / (before[2] - before[0]) == pytest.approx(2, rel=0.1)
    assert viewer.text("#panel .kind").strip() == "recording"


def test_an_edge_tells_what_flows_along_it(viewer: Viewer) -> None:
    viewer.open(transformer())
    edge = '.edge[data-from="g:model.layers.0"][data-to="g:model.layers.1"]'
    assert "add_0 → norm_1.x0: f32[B, L, 64]" in viewer.text(f"{edge} title")
    viewer.run(f"document.querySelector('{edge} .wide').dispatchEvent(new Event('click'))")
    viewer.run(f"document.querySelector('{edge}').dispatchEvent(new Event('click'))")
    assert viewer.text("#panel h2") == "2 tensors"
    assert "near" in (viewer.find(edge).get_attribute("class") or "")


def test_a_port_leads_to_the_node_outside(viewer: Viewer) -> None:
    viewer.open(transformer())
    viewer.toggle("model.layers.1")
    viewer.find(f"{LAYER.replace('0', '1')} > .port.in").click()
    assert viewer.text("#panel h2") == "add_0"


def test_a_source_of_all_layers_is_told_once(viewer: Viewer) -> None:
    viewer.open(transformer())
    viewer.stage(1)
    assert "all parts read state" in viewer.text('[data-group="model.layers"]')
    assert viewer.count('.edge[data-from="i:state"][data-to^="g:model.layers."]') == 0


def test_removed_nodes_are_ghosts_and_tell_who_removed_them(viewer: Viewer) -> None:
    viewer.open(transformer(layers=2))
    viewer.search("quantized_q_0")
    viewer.find('[data-node="linear_q_0"]').click()
    assert viewer.text("#panel h2") == "linear_q_0"
    assert "Removed by fuse." in viewer.text("#panel .notice")
    assert viewer.text("#stage-name") == "fuse"


def test_an_old_browser_is_told_what_it_needs(viewer: Viewer) -> None:
    script = {"source": "delete window.DecompressionStream"}
    added = viewer.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", script)
    try:
        viewer.load(transformer())
        viewer.wait("return document.documentElement.dataset.ready === 'failed'")
        assert "cannot unpack" in viewer.text("#loading")
    finally:
        viewer.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def test_dark_and_light(viewer: Viewer) -> None:
    viewer.prefer("dark")
    viewer.open(transformer())
    dark = viewer.color("body", "backgroundColor")
    viewer.find("#theme").click()
    light = viewer.color("body", "backgroundColor")
    viewer.prefer("light")
    assert viewer.color("body", "backgroundColor") == light
    brightness = [sum(map(int, c[4:-1].split(", "))) for c in (dark, light)]
    assert brightness[0] < 150 < 600 < brightness[1]


def test_the_picture_shows_the_graph(viewer: Viewer) -> None:
    viewer.open(transformer())
    ground = viewer.picture((20, 120, 40, 140)).most_common(1)[0][0]
    for i in range(6):
        box = viewer.picture(viewer.box(f'[data-group="model.layers.{i}"] > .body'))
        assert len(box) > 20, "text has many shades"
        assert box[ground] < box.total() / 2
    assert len(viewer.picture()) > 200


def test_boxes_do_not_overlap(viewer: Viewer) -> None:
    viewer.open(transformer())
    boxes = sorted(viewer.box(f'[data-group="model.layers.{i}"] > .body') for i in range(6))
    for one, other in pairwise(boxes):
        assert one[2] <= other[0] or one[3] <= other[1] or other[3] <= one[1]


def test_what_reads_stands_below(viewer: Viewer) -> None:
    viewer.open(transformer())
    viewer.stage(1)
    viewer.toggle("model.layers.0")
    parts = (
        f'[data-group="model.layers.0.{name}"]' for name in ("norm", "q+k+v site", "attn", "mlp")
    )
    boxes = [viewer.box(f"{part} > .body") for part in parts]
    for above, below in pairwise([*boxes, viewer.box('[data-node="add_0"]')]):
        assert above[3] < below[1]


def test_hostile_names_stay_text(viewer: Viewer) -> None:
    viewer.open(one_node(HOSTILE, HOSTILE, HOSTILE))
    assert viewer.text("#model") == HOSTILE
    viewer.search("onerror")
    for kind in ("error", "bits", "none"):
        viewer.heat(kind)
    viewer.press(LEFT, RIGHT, UP, DOWN, ENTER)
    viewer.run("document.querySelector('[data-node*=onerror]')?.dispatchEvent(new Event('click'))")
    assert viewer.run("return window.hit === undefined")
    assert viewer.count("img") == 0
    assert viewer.count("svg") == 1
    assert HOSTILE in viewer.text("#panel")


def test_a_phone(viewer: Viewer) -> None:
    viewer.resize(390, 844)
    viewer.open(transformer())
    assert viewer.run("return document.documentElement.scrollWidth") <= 390
    assert viewer.box("#panel")[1] > 700
    viewer.search("attention_3")
    assert viewer.run("return document.documentElement.scrollWidth") <= 390
    sheet, node = viewer.box("#panel"), viewer.box('[data-node="attention_3"]')
    assert 300 < sheet[1] < 600
    assert node[3] < sheet[1]
    viewer.find("#sheet").click()
    assert viewer.box("#panel")[1] > 700


def test_controls_have_names(viewer: Viewer) -> None:
    viewer.open(transformer())
    viewer.toggle("model.layers.0")
    script = (
        "return [...document.querySelectorAll('button, input, select, [role=button]')].filter(e =>"
        " !(e.getAttribute('aria-label') || e.textContent.trim() || e.closest('label'))).length"
    )
    assert viewer.run(script) == 0
    label = viewer.find(LAYER).get_attribute("aria-label") or ""
    assert label.startswith("group model.layers.0, expanded")


@pytest.mark.slow
def test_a_large_recording_is_ready_in_three_seconds(viewer: Viewer) -> None:
    recording = transformer(layers=32, stages=17, depth=100)
    assert len(recording.last.nodes) > 3000
    viewer.open(recording)
    assert viewer.run("return window.__readyMs") < 3000
    viewer.search("attention_17")
    assert viewer.text("#panel h2") == "attention_17"
