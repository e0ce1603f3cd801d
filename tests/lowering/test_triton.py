"""The Triton target, interpreted, against the reference target."""

from __future__ import annotations

import copy
import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from starquant_fx import load_artifact, save_artifact
from starquant_fx.capture import capture, skeleton
from starquant_fx.compiled import release_device_memory
from starquant_fx.errors import LoweringError
from starquant_fx.kernels.triton import prepares
from starquant_fx.lowering import choose_target, lower, triton_site
from starquant_fx.lowering.greedy import greedy_at_rows
from starquant_fx.lowering.linear_form import LinearForm
from starquant_fx.lowering.rows import at_rows
from starquant_fx.lowering.tables import Laid
from starquant_fx.lowering.triton_branch import columns
from starquant_fx.lowering.triton_linear import _maker
from starquant_fx.operators import op
from starquant_fx.pass_base import Pass
from starquant_fx.pass_manager import run_passes
from starquant_fx.passes import InsertLowRank, InsertSgat, InsertTokenState
from starquant_fx.program import Program
from starquant_fx.recipe import Recipe
from starquant_fx.recipes import get_recipe
from tests.compile_cases import fresh
from tests.small_models import MASK, masked_ids, model
from tests.small_programs import captured, copied, distance, quick

aten, tiles = torch.ops.aten, torch.ops.starquant
KINDS = ["llada", "dream"]
SHORT = ["llada-short", "dream-short"]
INT8_HEAD = "star-w8a8[role:head=w8a8]"


@functools.cache
def program_of(kind: str, recipe: str) -> Program:
    chosen = quick(recipe) if "star" in recipe else get_recipe(recipe)
    return run_passes(captured(kind, chosen), chosen.passes)


def with_passes(recipe: str, *passes: Pass) -> Recipe:
    """A recipe with passes of other options."""
    chosen, named = quick(recipe), {one.name: one for one in passes}
    return dataclasses.replace(chosen, passes=tuple(named.get(p.name, p) for p in chosen.passes))


def calls(graph: fx.Graph, target: Any) -> list[fx.Node]:
    return graph.find_nodes(op="call_function", target=target)


@pytest.mark.parametrize(
    ("kind", "recipe"),
    [
        *((kind, "star-w4a4") for kind in KINDS),
        *((kind, INT8_HEAD) for kind in SHORT),
        ("llada", "rtn-w4a8"),
        ("dream-short", "rtn-w4a16"),
        ("llada-short", "rtn-w16a4"),
        ("dream-short", "quarot+center+tac-w8a8"),
        ("llada-short", "quarot+tac-w4a4"),
        ("dream-short", "duquant-w4a4"),
        ("llada-short", "star-paper-w8a8"),
        ("dream-short", "rtn+lowrank-w16a8"),
    ],
)
def test_logits_are_near_the_reference(kind: str, recipe: str) -> None:
    program = program_of(kind, recipe)
    ids = masked_ids(kind, (2, 4), 0.5)
    module = lower(program, "triton")
    for target in ("transform_quantize", "quantized_linear", "add_low_rank", "split_low_rank"):
        assert not calls(module.graph, op(target))
    # In float32 codes differ where a sum in another order crosses the middle between two levels.
    assert distance(module(ids), lower(program, "reference")(ids)) < 1e-3


@pytest.mark.parametrize(
    "changed",
    [
        (InsertTokenState(edges=(0.4, 0.7)),),  # six states
        (InsertSgat(structure="block", size=8, rank=4),),
        (InsertTokenState(edges=(0.5,)), InsertLowRank(rank=3)),
    ],
)
def test_other_options(changed: tuple[Pass, ...]) -> None:
    recipe = with_passes("star-w8a8", *changed)
    program = run_passes(captured("llada-short", recipe), recipe.passes)
    ids = torch.cat([masked_ids("llada", (1, 5), ratio, seed=3) for ratio in (0.2, 0.5, 1.0)])
    found, expected = (lower(program, target)(ids) for target in ("triton", "reference"))
    assert distance(found, expected) < 1e-3


def test_a_basis_without_a_kernel_stays_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_site, "covers", lambda structure, factors, dtype: not len(factors))
    program, ids = program_of("dream-short", "star-w8a8"), masked_ids("dream", (2, 4), 0.5)
    low = lower(program, "triton")
    assert len(calls(low.graph, op("rotate"))) == len(calls(low.graph, tiles.tile_site.default))
    assert distance(low(ids), lower(program, "reference")(ids)) < 1e-3


@pytest.mark.parametrize(("rank", "kernel"), [(16, True), (17, False)])
def test_a_branch_without_a_kernel_stays_the_references(rank: int, kernel: bool) -> None:
    """Of four states; in float32 the kernel has up to 64 columns."""
    recipe = with_passes("star-w8a8", InsertTokenState(edges=(0.5,)), InsertLowRank(rank=rank))
    program = run_passes(captured("llada-short", recipe), recipe.passes)
    ids = masked_ids("llada", (2, 4), 0.5)
    low = lower(program, "triton")
    assert bool(calls(low.graph, tiles.tile_prepare.default)) is kernel
    for name in ("split_low_rank", "add_low_rank"):
        assert bool(calls(low.graph, op(name))) is not kernel
    assert calls(low.graph, tiles.tile_site.default)
    found = low(ids)
    assert distance(found, lower(program, "reference")(ids)) < 1e-3
    rows = torch.tensor([1, 2, 7])
    torch.testing.assert_close(at_rows(low)(ids, rows)[0], found.flatten(0, 1)[rows])


def test_tac_without_a_kernel_stays_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_site, "prepares", lambda block, columns, dtype: block == 1)
    program, ids = (
        program_of("dream-short", "quarot+center+tac-w8a8"),
        masked_ids("dream", (2, 4), 0.5),
    )
    low = lower(program, "triton")
    assert calls(low.graph, op("compensate"))
    assert distance(low(ids), lower(program, "reference")(ids)) < 1e-3


def test_ten_states_have_room_for_eight_directions_each() -> None:
    """Their columns come in multiples of 16, so that a rank counts as the next multiple of eight."""
    wide = {rank: columns(torch.empty(10, 64, rank)) for rank in (1, 8, 9)}
    assert wide == {1: 80, 8: 80, 9: 160}
    assert [rank for rank in wide if prepares(16, wide[rank], torch.bfloat16)] == [1, 8]


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_four_products(kind: str) -> None:
    """One for q, k and v; o with the residual; gate and up with the SwiGLU; down with the residual."""
    program = program_of(kind, "star-w4a4")
    graph = lower(program, "triton").graph
    layers = len(program.nodes(torch.ops.aten.scaled_dot_product_attention.default))
    linears = calls(graph, tiles.tile_linear.default)
    assert len(linears) == 4 * layers
    assert sum(node.args[12] is not None for node in linears) == 2 * layers
    assert sum(node.args[13] is True for node in linears) == layers
    assert not calls(graph, aten.silu.default)
    assert len(calls(graph, tiles.tile_site.default)) == 4 * layers
    prepared = calls(graph, tiles.tile_prepare.default)
    assert len(prepared) == 4 * layers
    assert sum(node.args[2] is not None for node in prepared) == layers, "TAC before o"


def test_norms_are_the_kernels() -> None:
    graph = lower(program_of("llada", "rtn-w4a8"), "triton").graph
    assert len(calls(graph, aten.rms_norm.default)) == 1, "the head's, which is not quantized"


@pytest.mark.parametrize(("kind", "recipe"), [("llada", "rtn-w4a8"), ("dream-short", INT8_HEAD)])
def test_greedy_choices_are_those_of_the_logits(kind: str, recipe: str) -> None:
    module = at_rows(lower(program_of(kind, recipe), "triton"))
    ids, rows = masked_ids(kind, (2, 4), 0.5), torch.tensor([1, 2, 7])
    low = greedy_at_rows(module, fused=True)
    heads = (tiles.tile_greedy.default, tiles.tile_greedy_int8.default)
    assert sum(len(calls(low.graph, head)) for head in heads) == 1
    assert not calls(low.graph, aten.linear.default)
    largest, tokens, probability = op("greedy")(module(ids, rows)[0], False)
    found = low(ids, rows)
    torch.testing.assert_close(found[0], largest)
    assert torch.equal(found[1], tokens)
    torch.testing.assert_close(found[2], probability)


def test_float16_is_fused_as_bfloat16_is() -> None:
    given = copy.deepcopy(model("llada-short")).half()
    recipe = get_recipe("rtn-w4a8")
    bare = capture(skeleton(given), recipe, mask_token_id=MASK["llada"])
    graph = lower(run_passes(bare, recipe.passes), "triton").graph
    assert len(calls(graph, aten.rms_norm.default)) == 1, "the head's"
    assert not calls(graph, aten.silu.default)


def test_tac_alone_is_computed_for_chosen_rows() -> None:
    module = lower(program_of("llada-short", "quarot+tac-w4a4"), "triton")
    low, ids, rows = at_rows(module), masked_ids("llada", (2, 4), 0.5), torch.tensor([1, 2, 7])
    torch.testing.assert_close(low(ids, rows)[0], module(ids).flatten(0, 1)[rows])
    (*_, last) = calls(low.graph, tiles.tile_prepare.default)
    source: Any = last.args[0]
    assert source.target == aten.unsqueeze.default, "it reads rows"


def test_scales_of_groups_are_joined_by_outputs() -> None:
    root = torch.nn.Module()
    graph, scales = fx.Graph(), [torch.rand(8, 2), torch.rand(4, 2)]
    forms = []
    for i, scale in enumerate(scales):
        root.register_buffer(f"s{i}", scale)
        node: Any = graph.get_attr(f"s{i}")
        values: Any = (*[None] * 4, node, None, 4, *[None] * 3, torch.float32)
        forms.append(LinearForm(node, *values))
    made = _maker(fx.GraphModule(root, graph), forms, "weight_scale")()
    assert made is not None
    assert torch.equal(made, torch.cat(scales))


def test_captures_of_a_model_share_what_is_laid_out() -> None:
    program, laid = program_of("llada", "star-w4a4"), Laid()
    first, second = (lower(program, "triton", laid) for _ in range(2))
    addresses = [
        {n: t.data_ptr() for n, t in m.named_buffers() if n.startswith("starquant_triton")}
        for m in (first, second)
    ]
    assert addresses[0] == addresses[1]
    assert len(addresses[0]) > 20


def test_lowering_needs_no_weights() -> None:
    recipe = get_recipe("star-w4a4")
    bare = capture(skeleton(model("dream-short")), recipe, mask_token_id=MASK["dream"])
    module = lower(run_passes(bare, recipe.passes), "triton")
    assert all(isinstance(tensor, FakeTensor) for tensor in module.buffers())
    shapes = {name: tuple(t.shape) for name, t in module.named_buffers()}
    chosen = run_passes(captured("dream-short", recipe), recipe.passes)
    whole = lower(chosen, "triton")
    assert shapes == {name: tuple(t.shape) for name, t in whole.named_buffers()}


def test_torch_compile_takes_it_whole() -> None:
    module = lower(program_of("llada-short", "star-w4a4"), "triton")
    ids = masked_ids("llada", (2, 4), 0.5)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(ids), module(ids))


def test_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, capability = torch.device("cuda"), [(9, 0)]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability[0])
    assert choose_target("auto", gpu) == choose_target("triton", gpu) == "triton"
    capability[0] = (7, 5)
    assert choose_target("auto", gpu) == "reference"
    with pytest.raises(LoweringError, match=r"a GPU of compute capability 7\.5"):
        choose_target("triton", gpu)
    cpu = torch.device("cpu")
    assert choose_target("triton", cpu) == "triton", "interpreted"
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(LoweringError, match="TRITON_INTERPRET=1"):
        choose_target("triton", cpu)
    assert choose_target("auto", cpu) != "triton"


def test_an_artifact_moves_between_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = fresh("llada-short", "rtn-w4a8", target="triton")
    assert made.report.kernels.startswith("the Triton kernels run, interpreted on the CPU: ")
    assert "tile_linear" in made.report.kernels
    path = save_artifact(made, tmp_path / "a.safetensors")
    assert load_artifact(model("llada-short"), path).report.target == "triton"
    monkeypatch.delenv("TRITON_INTERPRET")
    assert load_artifact(model("llada-short"), path).report.target in ("cpu", "reference")


def test_packed_weights_are_once_in_a_devices_memory() -> None:
    """On fake tensors of a GPU, which need none."""
    program = copied(program_of("llada", "rtn-w4a8"))
    low = lower(program, "triton")
    with FakeTensorMode():
        for name, tensor in program.tensors().items():
            kind: dict[str, Any] = {"dtype": tensor.dtype, "device": "cuda"}
            program.set_tensor(name, torch.empty(tensor.shape, **kind))
        release_device_memory(program, low)
    packed = {n: t for n, t in program.tensors().items() if n.endswith("packed")}
    assert packed
    assert all(t.device.type == "cpu" for t in packed.values())
    read = {str(node.target) for node in low.graph.nodes if node.op == "get_attr"}
    kept = [t for n, t in program.tensors().items() if n in read]
    assert kept
    assert all(t.device.type == "cuda" for t in kept)


def test_generation_is_that_of_the_reference() -> None:
    """With left padding, which is another capture that reads the same tensors."""
    made = {t: fresh("llada-short", "rtn-w8a8", target=t) for t in ("triton", "reference")}
    prompt = masked_ids("llada", (2, 5), 0.0)
    keep = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    texts = [
        one.generate(prompt, keep, steps=2, gen_length=4, block_length=4) for one in made.values()
    ]
    assert torch.equal(*texts)


def test_torch_compile_takes_a_step_of_generation_whole() -> None:
    one = fresh("llada-short", "rtn-w8a8", target="triton")
    ids, rows = masked_ids("llada", (2, 4), 0.5), torch.tensor([1, 5])
    compiled = torch.compile(one.greedy_at, fullgraph=True, backend="aot_eager")
    found_first = compiled(rows, ids)
    for found, value in zip(found_first, one.greedy_at(rows, ids), strict=True):
        torch.testing.assert_close(found, value)
