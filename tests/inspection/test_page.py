"""The page of a recording: its size, that it loads nothing, and that hostile text stays text."""

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib import resources
from typing import Any

import pytest

from starquant_fx.inspection.page import SCRIPTS, to_html
from tests.inspection.recordings import one_node, transformer

HOSTILE = "</script><img src=x onerror=alert(1)><!--{{data}}\"'&"
LARGEST = 3_000_000


class Parts(HTMLParser):
    """Tags with their attributes, and the text within each kind of tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag
        self.texts.setdefault(tag, []).append("")

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._open = ""


def viewer_file(name: str) -> str:
    place = resources.files("starquant_fx.inspection").joinpath("viewer", name)
    return place.read_text(encoding="utf-8")


def packed(page: str) -> dict[str, Any]:
    found = re.search(r'id="recording">([^<]*)<', page)
    assert found is not None
    values: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(found[1])))
    return values


def test_the_page_holds_every_node_of_every_stage() -> None:
    recording = transformer()
    values = packed(to_html(recording))
    strings, rows = values["strings"], values["nodes"]
    for told, stage in zip(values["stages"], recording.stages, strict=True):
        at, names = 0, []
        for step in told["steps"]:
            at += step
            names.append(strings[rows[at][values["fields"].index("name")]])
        assert names == list(stage.nodes)


def test_a_node_that_did_not_change_is_packed_once() -> None:
    recording = transformer(depth=20)
    objects = {node for stage in recording.stages for node in stage.nodes.values()}
    assert len(packed(to_html(recording))["nodes"]) == len(objects)
    assert len(objects) < sum(len(stage.nodes) for stage in recording.stages) / 2


def test_a_large_recording_makes_a_small_page() -> None:
    recording = transformer(layers=32, stages=17, depth=100)
    assert sum(len(stage.nodes) for stage in recording.stages) > 60_000
    assert len(to_html(recording).encode()) < LARGEST


def test_the_same_recording_makes_the_same_page() -> None:
    assert to_html(transformer()) == to_html(transformer())


def test_numbers_that_json_cannot_say_are_kept() -> None:
    recording = transformer(layers=1)
    site = next(iter(recording.sites.values()))
    object.__setattr__(site, "error", float("inf"))
    object.__setattr__(site, "leakage", float("nan"))
    told = packed(to_html(recording))["sites"][0]
    assert (told["error"], told["leakage"]) == ("Infinity", "NaN")


def test_hostile_text_makes_no_markup() -> None:
    plain, hostile = (
        Parts(to_html(one_node("x"))),
        Parts(to_html(one_node(HOSTILE, HOSTILE, HOSTILE))),
    )
    names = [tag for tag, _ in plain.tags]
    assert [tag for tag, _ in hostile.tags] == names
    assert hostile.texts["title"][0] == f"{HOSTILE} {HOSTILE}"
    assert "onerror" not in hostile.texts["body"][0]


def test_the_page_refers_to_nothing_outside() -> None:
    for tag, attributes in Parts(to_html(transformer())).tags:
        loading = {"src", "href", "srcset", "data", "action", "poster", "xlink:href"} & set(
            attributes
        )
        assert not loading, f"<{tag}> loads {loading}"
        assert tag not in ("link", "base", "iframe", "object", "embed", "img")
    style = viewer_file("style.css")
    assert "@import" not in style
    assert set(re.findall(r"url\(([^)]*)\)", style)) <= {"#arrow-near"}


def test_the_policy_lets_only_the_own_scripts_and_style_run() -> None:
    page = to_html(transformer())
    tags = Parts(page).tags
    (policy,) = [a["content"] for t, a in tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "connect" not in policy
    inline = re.findall(r"<(?:script|style)>(.*?)</(?:script|style)>", page, re.DOTALL)
    assert len(inline) == 3
    for text in inline:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_the_library_is_the_one_that_the_sources_name() -> None:
    told = viewer_file("SOURCES.md")
    (digest,) = re.findall(r"`([0-9a-f]{64})`", told)
    assert hashlib.sha256(viewer_file("dagre.min.js").encode()).hexdigest() == digest
    (version,) = re.findall(r"\| (\d+\.\d+\.\d+) \|", told)
    assert f'="{version}"' in viewer_file("dagre.min.js")


def test_the_page_holds_the_licence_of_the_library() -> None:
    assert viewer_file("dagre.LICENSE.txt") in to_html(transformer())


@pytest.mark.parametrize("name", SCRIPTS)
def test_modules_import_only_what_modules_before_them_export(name: str) -> None:
    before = SCRIPTS[: SCRIPTS.index(name)]
    imports = re.findall(
        r'^import \{([^}]*)\} from "\./([\w.]+)";$', viewer_file(name), re.MULTILINE
    )
    assert len(imports) == len(re.findall(r"^import\b", viewer_file(name), re.MULTILINE))
    for names, other in imports:
        assert other in before
        for one in filter(None, map(str.strip, names.split(","))):
            declared = rf"^export (?:async )?(?:function|class|const) {one}\b"
            assert re.search(declared, viewer_file(other), re.MULTILINE), f"{other} has no {one}"


def test_all_parts_of_the_viewer_are_used() -> None:
    folder = resources.files("starquant_fx.inspection").joinpath("viewer")
    modules = {f.name for f in folder.iterdir() if f.name.endswith(".js")}
    assert modules == {*SCRIPTS, "dagre.min.js"}


def test_no_text_of_a_recording_can_become_markup() -> None:
    for name in SCRIPTS:
        text = viewer_file(name)
        for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert way not in text, f"{name} uses {way}"
