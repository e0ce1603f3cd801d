"""Recordings of real compilations: stages, provenance, bits and costs are those of the program."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
from torch import fx
from transformers import BertConfig

from starquant_fx.cost.shapes import Shape
from starquant_fx.errors import InputError
from starquant_fx.inspection.record import record_config
from starquant_fx.inspection.recorder import Recorder
from starquant_fx.inspection.recording import Recording
from starquant_fx.pass_manager import run_passes
from starquant_fx.program import Program
from starquant_fx.recipes import get_recipe
from tests.small_programs import captured, quick

SHAPE = Shape(2, 8)


@functools.cache
def recorded(kind: str, recipe: str) -> tuple[Recording, Program]:
    recorder = Recorder(kind, SHAPE)
    program = run_passes(captured(kind, recipe), quick(recipe).passes, recorder)
    return recorder.recording(), program


@pytest.mark.parametrize("recipe", ["star-w4a4", "rtn-w8a8", "smoothquant-w4a8"])
def test_every_stage_is_recorded_with_what_its_pass_did(recipe: str) -> None:
    found, program = recorded("odd", recipe)
    assert [s.text for s in found.stages] == ["capture", *(r.name for r in program.records)]
    for stage, record in zip(found.stages[1:], program.records, strict=True):
        assert (stage.seconds, stage.notes) == (record.seconds, record.notes)
        assert stage.preserves in ("bitwise", "numerically", "not")
    for stage in found.stages:
        known: set[str] = set()
        for node in stage.nodes.values():
            assert {s.node for s in node.sources} <= known, (stage.name, node.name)
            for source in node.sources:
                assert 0 <= source.output < len(stage.nodes[source.node].outputs)
            known.add(node.name)


@pytest.mark.parametrize("recipe", ["star-w4a4", "rtn-w8a8"])
def test_a_node_that_did_not_change_is_one_object_and_one_that_did_is_not(recipe: str) -> None:
    found, program = recorded("odd", recipe)
    for before, after in zip(found.stages, found.stages[1:], strict=False):
        for name in before.nodes.keys() & after.nodes.keys():
            same = before.nodes[name] is after.nodes[name]
            assert same == (before.nodes[name] == after.nodes[name])
    fresh = Recorder("odd", SHAPE)
    fresh("capture", captured("odd", recipe))
    fresh("fuse", program)  # describes all nodes anew
    for name, node in fresh.recording().last.nodes.items():
        kept = found.last.nodes[name]
        assert dataclasses.replace(node, made_from=()) == dataclasses.replace(kept, made_from=())


def test_nodes_say_which_pass_made_them_and_from_what() -> None:
    found, _ = recorded("odd", "star-w4a4")
    before = dict(zip(found.names, ({}, *(s.nodes for s in found.stages)), strict=False))
    for stage in found.stages:
        for node in stage.nodes.values():
            if node.made_by == stage.name and node.name not in before[stage.name]:
                assert set(node.made_from) <= before[stage.name].keys()
    fused = next(n for n in found.last.nodes.values() if n.part == "quantized_linear")
    replaced = [before["fuse"][name] for name in fused.made_from]
    assert fused.made_by == "fuse"
    assert {n.operator for n in replaced} >= {"aten.linear", "starquant.dequantize_weight"}
    assert not {n.name for n in replaced} & found.last.nodes.keys()
    assert found.stages[0].nodes[replaced[1].name].operator == "aten.linear"


def test_bits_are_those_of_the_recipe() -> None:
    found, _ = recorded("odd", "smoothquant-w4a8")
    by_part: dict[str, set[str]] = {}
    for node in found.last.nodes.values():
        by_part.setdefault(node.part, set()).add(node.bits)
    assert by_part["quantized_linear"] == {"w4a8"}
    assert by_part["quantize"] == {"a8"}
    quantizers = found.stage("insert-quantizers").nodes.values()
    for node in quantizers:
        if node.part == "linear":
            assert node.bits == found.sites[node.site].bits
    assert not any(n.bits for n in found.stages[0].nodes.values())


def test_sites_have_errors_bytes_and_operations() -> None:
    found, program = recorded("odd", "star-w4a4")
    assert list(found.sites) == list(program.sites)
    for name, site in found.sites.items():
        if not site.bits:
            assert site.reason
            continue
        assert site.error == program.findings[name]["error"]
        assert site.sqnr is not None
        assert 0 < site.sqnr < 60
        tensors = sum(program.tensor(n).nbytes for n in _constants(program, site.linears, name))
        assert site.bytes_after == tensors
        products = 2 * SHAPE.tokens * site.features * sum(site.outputs)
        assert products <= site.flops < 3 * products


def _constants(program: Program, linears: tuple[str, ...], site: str) -> list[fx.Node]:
    from starquant_fx.program import facts

    own = [
        n
        for n in program.graph.nodes
        if facts(n).get("site") == site or facts(n).get("of") in linears
    ]
    read = dict.fromkeys(i for n in own for i in n.all_input_nodes if i.op == "get_attr")
    return list({str(n.target): n for n in read}.values())


def test_sizes_are_written_with_b_and_l_and_several_results_are_counted() -> None:
    found, _ = recorded("odd", "star-w4a4")
    nodes = found.last.nodes.values()
    assert not {"python.getitem", "aten.sym_size"} & {n.operator for n in nodes}
    quantizer = next(n for n in nodes if n.operator == "starquant.transform_quantize")
    assert [text.partition("[")[2] for text in quantizer.outputs[1:]] == ["B, L, 1]"] * 2
    readers = [s.output for n in nodes for s in n.sources if s.node == quantizer.name]
    assert set(readers) == {0, 1, 2}


@pytest.mark.parametrize("recipe", ["rtn-w4a8", "star-w4a4"])
@pytest.mark.parametrize("target", ["cpu", "triton", "reference"])
def test_what_a_target_makes_belongs_to_its_sites(target: str, recipe: str) -> None:
    chosen = get_recipe(recipe)
    found = record_config("llada-tiny", chosen, layers=1, target=target)
    plain = record_config("llada-tiny", chosen, layers=1)
    assert (found.names[0], found.names[-1]) == ("capture", "lower")
    assert found.last.text == f"lower{{target={target}}}"
    before = found.stages[-2].nodes
    for name, site in found.sites.items():
        assert site.error is None
        if not site.bits:
            continue
        own = [n for n in found.last.nodes.values() if n.site == name]
        products = [n for n in own if n.part == "quantized_linear"]
        assert {n.bits for n in products} == {site.bits}
        assert "+".join(site.roles) == "+".join(n.role for n in products)
        assert 0.8 < site.flops / plain.sites[name].flops < 1.2
        assert 0.9 < site.bytes_after / plain.sites[name].bytes_after < 1.5
    for node in found.last.nodes.values():
        earlier = before.get(node.name)
        if node.made_by != "lower":
            assert earlier is not None
            assert earlier.operator == node.operator
        elif earlier is not None:
            assert node.made_from == (node.name,)
    assert target == "reference" or any(n.made_by == "lower" for n in found.last.nodes.values())


def test_a_configuration_of_another_architecture_needs_no_weights(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "vocab_size": 99}
    BertConfig(architectures=["BertForMaskedLM"], num_attention_heads=4, **sizes).save_pretrained(
        tmp_path
    )
    found = record_config(str(tmp_path / "config.json"), get_recipe("rtn-w4a4"), layers=2)
    assert (
        sum(1 for site in found.sites.values() if site.bits) == 9
    )  # and the dense one before the head
    (tmp_path / "config.json").rename(tmp_path / "my.json")
    with pytest.raises(InputError, match="no model's configuration"):
        record_config(str(tmp_path / "my.json"), get_recipe("rtn-w4a4"))


def test_sites_are_found_by_layer_and_role() -> None:
    found, _ = recorded("llada", "rtn-w8a8")
    for text in ("layers.1.o_proj", "1.o", "model.layers.1.self_attn.o_proj"):
        assert found.site(text).name.endswith("blocks.1.attn_out")
    assert found.site("2.gate_proj").name.endswith("blocks.2.ff_proj")
    with pytest.raises(InputError):
        found.site("layers.9.o_proj")
