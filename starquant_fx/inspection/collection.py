"""Recordings as JSON in the form that Model Explorer opens: a collection with a graph for every stage.

Its own fields hold all of a node, so that a file is read back whole: what has no field there is an attribute
(``attrs``), and the key ``starquant``, which Model Explorer ignores, holds stages and sites.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from starquant_fx.errors import CheckpointError, cause
from starquant_fx.inspection import checking, packing
from starquant_fx.inspection.recording import (
    VERSION,
    Node,
    Recording,
    SiteFacts,
    Source,
    Stage,
)

KEY = "starquant"
TAG = "__tensor_tag"
"""What Model Explorer shows as the name of an input."""
PATHS = ("module", "linear")
TEXTS = ("module", "role", "site", "part", "linear", "made_by", "bits")
NUMBERS = ("flops", "bytes")
BROKEN = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError)
"""What reading a file meets that is no recording."""
TENSOR, ARGUMENT, FROM = "tensor ", "argument ", "made_from"


def to_collection(recording: Recording) -> dict[str, Any]:
    """A recording as JSON-ready values.

    Args:
        recording: The recording.

    Returns:
        A GraphCollection of Model Explorer; ids of its graphs are the numbers and names of the stages.
    """
    return {
        "label": f"{recording.model} {recording.recipe}",
        "graphSorting": "name_asc",
        "graphs": [
            {
                "id": graph_id(i, stage),
                "nodes": [_graph_node(node) for node in stage.nodes.values()],
                "groupNodeAttributes": {"": _about(recording, stage)},
            }
            for i, stage in enumerate(recording.stages)
        ],
        KEY: {
            "version": VERSION,
            "package": recording.package,
            "model": recording.model,
            "recipe": recording.recipe,
            "tokens": recording.tokens,
            "stages": [_plain(stage, leave="nodes") for stage in recording.stages],
            "sites": [_site(site) for site in recording.sites.values()],
        },
    }


def graph_id(index: int, stage: Stage) -> str:
    """Id of a stage's graph; sorted by name they are in order."""
    return f"{index:02d} {stage.name}"


def to_json(recording: Recording) -> str:
    """The file's content."""
    return json.dumps(to_collection(recording), separators=(",", ":"), allow_nan=False)


def read_recording(path: str | os.PathLike[str]) -> Recording:
    """Reads a file that ``to_json`` made.

    Args:
        path: The file.

    Returns:
        The recording.

    Raises:
        CheckpointError: It cannot be read, is no recording, is cut short, or is of another version.
    """
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        hint = "name a file that `inspect --json` wrote"
        raise _refusal(path, "a recording in JSON", cause(error), hint) from error
    except (ValueError, RecursionError) as error:
        hint = "record it again; a file that was cut short ends in the middle"
        raise _refusal(path, "a recording in JSON", cause(error), hint) from error
    if not isinstance(values, dict) or not isinstance(values.get(KEY), dict):
        hint = "record one with --json; a graph collection of another program cannot be read back"
        raise _refusal(path, f"a JSON object with the key {KEY!r}", "another one", hint)
    version = values[KEY].get("version")
    if type(version) is not int or version != VERSION:
        made = values[KEY].get("package")
        hint = "record it again with this version, or read it with that one"
        got = f"{version!r:.80}, written by version {made!r:.80} of the package"
        raise _refusal(path, f"a recording of version {VERSION}", got, hint)
    try:
        return from_collection(values)
    except BROKEN as error:
        hint = "record it again"
        raise _refusal(path, "all parts of a recording", cause(error), hint) from error


def from_collection(values: Mapping[str, Any]) -> Recording:
    """A recording from what ``to_collection`` made.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError: It is none, or holds what
            ``checking`` refuses.
    """
    own, stages = values[KEY], []
    before: Mapping[str, Node] = {}
    for told, graph in zip(own["stages"], values["graphs"], strict=True):
        nodes: dict[str, Node] = {}
        for one in graph["nodes"]:
            node = _node(one)
            if node.name in nodes or any(s.node not in nodes for s in node.sources):
                raise ValueError(f"node {node.name!r:.80} comes twice or before what it reads")
            if any(0 < len(nodes[s.node].outputs) <= s.output for s in node.sources):
                raise ValueError(f"node {node.name!r:.80} reads an output that there is none of")
            nodes[node.name] = before[node.name] if before.get(node.name) == node else node
        before = nodes
        stages.append(_made(Stage, {**told, "nodes": nodes}))
    if not stages:
        raise ValueError("no stages")
    sites = _sites(own["sites"])
    texts = {key: checking.name(own[key]) for key in ("model", "recipe", "package")}
    tokens = checking.tokens(own["tokens"])
    return Recording(stages=tuple(stages), sites=sites, tokens=tokens, **texts)


def _graph_node(node: Node) -> dict[str, Any]:
    return {
        "id": node.name,
        "label": node.operator,
        "namespace": node.module.replace("/", "\u2215").replace(".", "/"),
        "attrs": [{"key": key, "value": value} for key, value in _attributes(node)],
        "incomingEdges": [
            {
                "sourceNodeId": s.node,
                "sourceNodeOutputId": str(s.output),
                "targetNodeInputId": str(i),
            }
            for i, s in enumerate(node.sources)
        ],
        "inputsMetadata": [
            {"id": str(i), "attrs": [{"key": TAG, "value": s.argument}]}
            for i, s in enumerate(node.sources)
        ],
        "outputsMetadata": [
            {"id": str(i), "attrs": [{"key": "tensor_shape", "value": kind}]}
            for i, kind in enumerate(node.outputs)
        ],
    }


def _attributes(node: Node) -> Iterator[tuple[str, str]]:
    for key in TEXTS:
        if value := getattr(node, key):
            yield key, value
    if node.made_from:
        yield FROM, " ".join(node.made_from)
    for key in NUMBERS:
        if (value := getattr(node, key)) is not None:
            yield key, f"{value:.17g}"
    for name, tensor, kind in node.tensors:
        yield f"{TENSOR}{name}", f"{tensor}: {kind}"
    for name, text in node.arguments:
        yield f"{ARGUMENT}{name}", text


def _site(site: SiteFacts) -> dict[str, Any]:
    """As JSON can say it: errors of a broken site are not finite."""
    measured = {"error": packing.number(site.error), "leakage": packing.number(site.leakage)}
    return {**_plain(site), **measured}


def _sites(values: Iterable[Mapping[str, Any]]) -> dict[str, SiteFacts]:
    found: dict[str, SiteFacts] = {}
    for one in values:
        site: SiteFacts = _made(SiteFacts, one)
        for path in (site.name, *site.linears):
            checking.path(path)
        if site.name in found or not site.linears:
            raise ValueError(f"site {site.name!r:.80} comes twice or has no linears")
        if not len(site.linears) == len(site.roles) == len(site.outputs):
            raise ValueError(f"site {site.name!r:.80} has not one role and output a linear")
        found[site.name] = site
    return found


def _node(values: Mapping[str, Any]) -> Node:
    attributes = [
        (checking.text(one["key"]), checking.text(one["value"])) for one in values["attrs"]
    ]
    known = dict(attributes)
    tags = [checking.text(one["attrs"][0]["value"]) for one in values["inputsMetadata"]]
    sources = tuple(
        Source(checking.name(edge["sourceNodeId"]), checking.index(edge["sourceNodeOutputId"]), tag)
        for edge, tag in zip(values["incomingEdges"], tags, strict=True)
    )
    tensors = []
    for key, value in attributes:
        if key.startswith(TENSOR):
            name, _, kind = value.rpartition(": ")
            tensors.append((key.removeprefix(TENSOR), name, kind))
    texts: dict[str, Any] = {key: checking.name(known.get(key, "")) for key in TEXTS}
    for key in PATHS:
        checking.path(texts[key])
    numbers: dict[str, Any] = {
        key: checking.number(float(known[key])) if key in known else None for key in NUMBERS
    }
    return Node(
        name=checking.name(values["id"]),
        operator=checking.name(values["label"]),
        sources=sources,
        outputs=tuple(checking.text(one["attrs"][0]["value"]) for one in values["outputsMetadata"]),
        tensors=tuple(tensors),
        arguments=tuple(
            (key.removeprefix(ARGUMENT), value)
            for key, value in attributes
            if key.startswith(ARGUMENT)
        ),
        made_from=tuple(known[FROM].split(" ")) if FROM in known else (),
        **texts,
        **numbers,
    )


def _plain(value: Any, leave: str = "") -> dict[str, Any]:
    """Fields of a dataclass."""
    names = [field.name for field in dataclasses.fields(value) if field.name != leave]
    return {name: getattr(value, name) for name in names}


def _made(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """A dataclass from its fields; lists become tuples, and types are those of its annotations."""
    fields = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    found = {}
    for name, value in values.items():
        wanted = fields[name]
        try:
            found[name] = _read(value, wanted)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{kind.__name__}.{name}, which is {wanted}: {error}") from error
    return kind(**found)


def _read(value: Any, wanted: str) -> Any:
    """A field's value, if it is of the annotation's type."""
    if wanted.startswith("tuple"):
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"{value!r:.80} is no list")
        one = checking.text if "str" in wanted else checking.whole
        return tuple(map(one, value))
    if wanted.startswith("Mapping"):
        return value
    if "None" in wanted:
        return None if value is None else checking.error(value)
    return {"str": checking.text, "int": checking.whole, "float": checking.number}[wanted](value)


def _about(recording: Recording, stage: Stage) -> dict[str, str]:
    """What Model Explorer shows of a whole graph."""
    return {
        "model": recording.model,
        "recipe": recording.recipe,
        "pass": stage.text,
        "keeps the function": stage.preserves or "-",
        "seconds": f"{stage.seconds:.2f}",
        "notes": "; ".join(stage.notes) or "-",
    }


def _refusal(path: Path, expected: str, got: str, hint: str) -> CheckpointError:
    return CheckpointError(
        "the recording cannot be read", where=str(path), expected=expected, got=got, hint=hint
    )
