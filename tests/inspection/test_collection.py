"""Recordings as JSON: Model Explorer's form, read back whole; what is no recording is refused."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from starquant_fx.errors import CheckpointError, InputError
from starquant_fx.inspection import drawing, terminal
from starquant_fx.inspection.analysis import precision_path
from starquant_fx.inspection.collection import read_recording, to_collection, to_json
from starquant_fx.inspection.recording import Recording
from tests.inspection.test_recorder import recorded
from tests.inspection.test_terminal import printed


@pytest.fixture(scope="module")
def recording() -> Recording:
    return recorded("odd", "star-w4a4")[0]


@pytest.fixture
def written(recording: Recording, tmp_path: Path) -> Path:
    path = tmp_path / "recording.json"
    path.write_text(to_json(recording))
    return path


def test_a_file_is_read_back_whole(recording: Recording, written: Path) -> None:
    again = read_recording(written)
    assert again == recording
    for stage, kept in zip(again.stages, recording.stages, strict=True):
        assert list(stage.nodes) == list(kept.nodes)
    first, second = again.stages[2], again.stages[3]
    shared = [n for n in first.nodes if second.nodes.get(n) == first.nodes[n]]
    assert shared
    assert all(first.nodes[n] is second.nodes[n] for n in shared)


def test_it_has_the_fields_of_a_graph_collection(recording: Recording) -> None:
    found = to_collection(recording)
    assert found["label"] == "odd star-w4a4"
    ids = [graph["id"] for graph in found["graphs"]]
    assert ids == sorted(ids)
    assert ids[0] == "00 capture"
    for graph in found["graphs"]:
        names = {node["id"] for node in graph["nodes"]}
        assert len(names) == len(graph["nodes"])
        for node in graph["nodes"]:
            assert set(node) == {
                *("id", "label", "namespace", "attrs", "incomingEdges"),
                *("inputsMetadata", "outputsMetadata"),
            }
            assert all(
                isinstance(a["key"], str) and isinstance(a["value"], str) for a in node["attrs"]
            )
            assert all(edge["sourceNodeId"] in names for edge in node["incomingEdges"])
            assert all(isinstance(v, str) for e in node["incomingEdges"] for v in e.values())


def changed(path: Path, edit: Any) -> Path:
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda v: v["starquant"].update(version=99), "of version 1"),
        (lambda v: v.pop("starquant"), "key 'starquant'"),
        (lambda v: v["graphs"].pop(), "all parts"),
        (lambda v: v["graphs"][0]["nodes"].pop(0), "before what it reads"),
        (lambda v: v["graphs"][0]["nodes"].append(v["graphs"][0]["nodes"][0]), "comes twice"),
        (lambda v: v["graphs"][0]["nodes"][0].pop("label"), "label"),
        (lambda v: v["graphs"][0]["nodes"][0].update(label=3), "no text"),
        (lambda v: v["starquant"].update(version=True), "of version 1"),
        (lambda v: v["starquant"].update(version=1.0), "of version 1"),
        (lambda v: v["starquant"]["sites"][0].update(error="much"), "SiteFacts.error"),
        (lambda v: v["starquant"]["sites"][0].update(features=None), "SiteFacts.features"),
        (lambda v: v["starquant"]["stages"][0].update(more=1), "more"),
        (lambda v: v["starquant"].update(stages=[]), "all parts"),
    ],
)
def test_what_is_no_recording_is_refused(written: Path, edit: Any, told: str) -> None:
    with pytest.raises(CheckpointError) as refused:
        read_recording(changed(written, edit))
    assert told in str(refused.value)
    assert str(written) in str(refused.value)


DEEP = ".".join("m" * 1500)
HUGE = 10**400


def sites(**facts: Any) -> Any:
    return lambda v: v["starquant"]["sites"][0].update(facts)


def stages(**facts: Any) -> Any:
    return lambda v: v["starquant"]["stages"][0].update(facts)


def whole(**facts: Any) -> Any:
    return lambda v: v["starquant"].update(facts)


def nodes(**facts: Any) -> Any:
    return lambda v: v["graphs"][0]["nodes"][3].update(facts)


def attribute(key: str, value: str) -> Any:
    return lambda v: v["graphs"][0]["nodes"][3]["attrs"].append({"key": key, "value": value})


def output(number: str) -> Any:
    def edit(values: Any) -> None:
        node = next(n for n in values["graphs"][0]["nodes"] if n["incomingEdges"])
        node["incomingEdges"][0]["sourceNodeOutputId"] = number

    return edit


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        *((sites(**{key: HUGE}), key) for key in ("flops", "bytes_after", "error", "features")),
        *((sites(**{key: 1e301}), key) for key in ("flops", "error", "leakage")),
        (sites(flops=float("nan")), "flops"),
        (sites(flops="NaN"), "flops"),
        (sites(outputs=[True]), "outputs"),
        (sites(outputs=[2**63 + 1]), "outputs"),
        (sites(roles=[]), "one role"),
        (sites(name=DEEP), "100 parts"),
        (sites(linears=[DEEP]), "100 parts"),
        (sites(name="9" * 5000), "4096 characters"),
        (sites(reason="\ud800"), "half of a character"),
        (stages(seconds=HUGE), "seconds"),
        (stages(seconds=float("inf")), "seconds"),
        (stages(notes=["\ud800"]), "half of a character"),
        (whole(tokens="9" * 4000 + "x1"), "no shape"),
        (whole(tokens="9" * 5000 + "x1"), "4096 characters"),
        (whole(tokens="many"), "no shape"),
        (whole(model="\ud800"), "half of a character"),
        (whole(recipe="r" * 5000), "4096 characters"),
        *((attribute("flops", text), "finite") for text in ("nan", "inf", "1e999", "9" * 5000)),
        (attribute("bytes", "-inf"), "finite"),
        (attribute("module", DEEP), "100 parts"),
        (attribute("argument x", "\udfff"), "half of a character"),
        (nodes(label="x" * 5000), "4096 characters"),
        *((output(text), "no number from 0") for text in ("-9", "1_0", "9" * 5000, "", "\u0663")),
        (output("9"), "an output that there is none of"),
        (lambda v: v["starquant"]["sites"].append(v["starquant"]["sites"][0]), "comes twice"),
    ],
)
def test_what_cannot_be_shown_is_refused(written: Path, edit: Any, told: str) -> None:
    with pytest.raises(CheckpointError) as refused:
        read_recording(changed(written, edit))
    assert told in str(refused.value)
    str(refused.value).encode()


@pytest.mark.parametrize("error", [math.nan, math.inf, 0.0, -1.0])
def test_errors_of_broken_sites_are_read_back(
    recording: Recording, tmp_path: Path, error: float
) -> None:
    name, site = next(iter(recording.sites.items()))
    broken = dataclasses.replace(site, error=error, leakage=error)
    path = tmp_path / "a.json"
    path.write_text(
        to_json(dataclasses.replace(recording, sites={**recording.sites, name: broken}))
    )
    again = read_recording(path)
    assert repr(again.site(name)) == repr(broken)
    for text in (terminal.sites(again, "error"), terminal.site(again, name)):
        assert printed(text, 160)
    assert printed(terminal.precision_path(precision_path(again)), 160)


def test_a_deep_module_is_still_shown(recording: Recording, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(to_json(recording))
    changed(path, attribute("module", ".".join("m" * 100)))
    again = read_recording(path)
    assert printed(terminal.stage(again, "capture", all=True, nodes=True), 160)
    assert drawing.dot(again.stage("capture"))


@pytest.mark.parametrize("content", ["", "[]", "{", "null", '"text"', "[" * 100_000, "\udcff"])
def test_other_content_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError):
        read_recording(path)


def test_a_file_that_was_cut_short_is_refused(written: Path) -> None:
    content = written.read_text()
    for share in (0.1, 0.5, 0.99):
        written.write_text(content[: int(share * len(content))])
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_recording(written)
    with pytest.raises(CheckpointError):
        read_recording(written.parent / "nowhere.json")


def test_stages_and_sites_are_found_by_name_and_the_nearest_is_offered(
    recording: Recording,
) -> None:
    assert recording.stage("fuse") is recording.last
    with pytest.raises(InputError, match="fold-sgat"):
        recording.stage("fold-sgta")
    site = next(iter(recording.sites.values()))
    assert recording.site(site.name) is site
    assert recording.site(site.linears[-1]) is site
    parts = site.name.split(".")
    assert recording.site(f"{parts[-2]}.{parts[-1]}") is site
    with pytest.raises(InputError) as refused:
        recording.site(parts[-1] + "x")
    assert parts[-1] in str(refused.value)
    layers, _ = recorded("llada", "rtn-w8a8")
    with pytest.raises(InputError, match="3 sites are called 'attn_out'"):
        layers.site("attn_out")
    assert layers.site("1.attn_out").name.endswith("blocks.1.attn_out")
