"""Recordings as JSON: Model Explorer's form, read back whole; what is no recording is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from starquant_fx.errors import CheckpointError, InputError
from starquant_fx.inspection.collection import read_recording, to_collection, to_json
from starquant_fx.inspection.recording import Recording
from tests.inspection.test_recorder import recorded


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
            assert all(isinstance(a["key"], str) and isinstance(a["value"], str) for a in node["attrs"])
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
