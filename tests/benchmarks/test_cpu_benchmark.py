"""The CPU benchmark: its models and variants, its processes, and what it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cpu
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from cpu_suite import weights
from cpu_suite.llama_cpp_models import gguf_name, interleaved
from cpu_suite.memory import LIBRARIES, grouped
from cpu_suite.onnx_models import weight_bytes
from cpu_suite.ours import held_bytes, short
from cpu_suite.runner import Logits
from cpu_suite.served import peak_bytes
from cpu_suite.specs import MODELS, Place, Shape, models, shapes
from cpu_suite.variants import ANCHORS, PAIRED, QUICK, VARIANTS, Variant, chosen, logits_of
from cpu_suite.worker import Worker, WorkerError
from starquant_fx.errors import InputError
from starquant_fx.models.layers import apply_rotary, rotary_tables
from starquant_fx.models.llada import LladaConfig, LladaModel
from starquant_fx.recipes import get_recipe

TINY = MODELS["2x128"]


def test_sizes_are_those_of_the_model() -> None:
    with torch.device("meta"):
        config = weights.configuration(TINY)
        model = LladaModel(LladaConfig.from_dict(config))
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "wte" not in n]
    assert sorted(p.shape[::-1] for p in matrices) == sorted(TINY.products)
    head = TINY.width * TINY.vocab
    assert TINY.operations(3, 3) == 6 * sum(p.numel() for p in matrices)
    assert TINY.operations(3, 1) == TINY.operations(3, 3) - 4 * head
    shipped = json.loads((weights.locate("llada-tiny", None) / "config.json").read_text())
    spec = MODELS["llada-tiny"]
    sizes = ("n_layers", "d_model", "n_heads", "mlp_hidden_size", "embedding_size")
    assert [shipped[key] for key in sizes] == [6, 256, 4, 640, 4096]
    assert (spec.layers, spec.width, spec.heads, spec.ffn, spec.vocab) == (6, 256, 4, 640, 4096)
    assert shipped["mask_token_id"] == spec.vocab - 1


def test_half_of_the_tokens_of_every_sequence_are_masked() -> None:
    ids = weights.token_ids(TINY, Shape(3, 10))
    assert (ids == TINY.vocab - 1).sum(1).tolist() == [5, 5, 5]
    assert not torch.equal(ids[0] == TINY.vocab - 1, ids[1] == TINY.vocab - 1)
    assert torch.equal(ids, weights.token_ids(TINY, Shape(3, 10)))


def test_masked_rows_are_the_places_of_masked_tokens() -> None:
    ids = weights.token_ids(TINY, Shape(2, 6))
    rows = weights.masked_rows(TINY, ids)
    assert len(rows) == Shape(2, 6).masked
    assert (ids.flatten()[rows] == TINY.vocab - 1).all()


def test_logits_at_rows_are_those_of_all_tokens() -> None:
    torch.manual_seed(0)
    model = LladaModel(LladaConfig.from_dict(weights.configuration(TINY))).eval()
    ids = weights.token_ids(TINY, Shape(2, 6))
    rows = torch.tensor([1, 4, 11])
    with torch.no_grad():
        some, every = Logits(model)(ids, rows), Logits(model)(ids)
    torch.testing.assert_close(some, every.flatten(0, 1)[rows])


def test_variants_have_anchors_and_fp32_and_keep_their_order() -> None:
    names = [v.name for v in chosen("star-w4a4")]
    assert names == ["int8 limit", "bf16", "bf16 compiled", "fp32", "star-w4a4"]
    assert [v.name for v in chosen("all")] == list(VARIANTS)
    assert set(QUICK) == {v.name for v in chosen(",".join(QUICK))}
    for variant in VARIANTS.values():
        module = variant.load()
        assert callable(module.build)
        assert hasattr(module, "prepare") == variant.prepared


def test_both_kinds_of_logits_are_of_the_variants_that_decide() -> None:
    of = {name: logits_of(variant, "both") for name, variant in VARIANTS.items()}
    assert {name for name, found in of.items() if found == (False, True)} == set(PAIRED)
    assert {found for name, found in of.items() if name not in PAIRED} == {(False,)}
    assert {logits_of(variant, "masked") for variant in VARIANTS.values()} == {(True,)}


def test_the_short_recipe_makes_the_same_graph() -> None:
    whole, less = get_recipe("star-w4a4"), short("star-w4a4")
    names = [p.name for p in whole.passes if p.name != "gptq"]
    assert [p.name for p in less.passes] == names
    changed = {p.name for p in less.passes if p not in whole.passes}
    assert changed == {"fit-sgat"}  # GPTQ changes codes, the fit the values of a basis
    assert (less.weight_bits, less.ignore) == (whole.weight_bits, whole.ignore)


def test_groups_fill_the_memory_beside_the_anchors() -> None:
    anchors = [VARIANTS[name] for name in ANCHORS]
    others = [v for v in VARIANTS.values() if v not in anchors]
    assert grouped(anchors, others, TINY, 1e12) == [others]
    assert grouped(anchors, others, TINY, 0) == [[v] for v in others]
    two = [Variant("a", "peer", "", size=0.0), Variant("b", "peer", "", size=0.0)]
    assert grouped([], [*two, *two], TINY, 2.1 * LIBRARIES / 0.8) == [two, two]


def test_weights_of_an_onnx_model_leave_out_embedding_and_head() -> None:
    def constant(name: str, kind: int, *dims: int) -> onnx.TensorProto:
        size = int(np.prod(dims))
        return helper.make_tensor(name, kind, dims, [0] * size)

    constants = [
        constant("wte", TensorProto.FLOAT, 50, 4),
        constant("w", TensorProto.INT8, 4, 6),
        constant("scale", TensorProto.FLOAT, 6),
        constant("head", TensorProto.INT8, 6, 50),
        constant("head_scale", TensorProto.FLOAT, 1),
    ]
    nodes = [
        helper.make_node("Gather", ["wte", "ids"], ["x"]),
        helper.make_node("Some", ["x", "w", "scale"], ["y"]),
        helper.make_node("Some", ["y", "head", "head_scale"], ["logits"]),
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", [], [], constants))
    assert weight_bytes(model, 50) == 4 * 6 + 4 * 6


def test_weights_of_ours_are_what_the_kernels_read_once() -> None:
    kept, laid = torch.zeros(10, dtype=torch.uint8), torch.zeros(8)
    tables = {
        "starquant.blocks.0.q_proj.packed": kept,
        "starquant.blocks.0.k_proj.packed": kept,
        "starquant_cpu.blocks_0.left": laid,
        "starquant_cpu.model_transformer_ff_out.clip": torch.zeros(2),
        "model.transformer.wte.weight": torch.zeros(100),
    }
    compiled: Any = SimpleNamespace(graph=SimpleNamespace(state_dict=lambda **_: tables))
    assert held_bytes(compiled) == 10 + 8 * 4


def test_llama_cpp_gets_the_same_rotary_embedding() -> None:
    heads, size, tokens = 2, 8, 3
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, 5, generator=generator)
    weight = torch.randn(2, heads * size, 5, generator=generator)  # of q and k
    cos, sin = rotary_tables(torch.arange(tokens)[None], size, 100.0)
    q, k = (
        apply_rotary((x @ w.T).unflatten(-1, (heads, size)).transpose(0, 1)[None], cos, sin)
        for w in weight
    )
    turned = []
    for w in weight:
        pairs = torch.from_numpy(interleaved(w.numpy(), heads)).T
        y = (x @ pairs).unflatten(-1, (heads, size // 2, 2)).transpose(0, 1)
        half = torch.view_as_complex(y.contiguous())
        angle = torch.complex(cos[0, 0, :, : size // 2], sin[0, 0, :, : size // 2])
        turned.append(torch.view_as_real(half * angle).flatten(-2))
    scores = turned[0] @ turned[1].mT
    assert torch.allclose(scores, (q @ k.mT)[0], atol=1e-4)
    assert gguf_name("model.transformer.blocks.3.ff_out.weight") == "blk.3.ffn_down.weight"
    assert gguf_name("model.transformer.ff_out.weight") == "output.weight"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--models", "llada-tinny"], "llada-tiny"),
        (["--tokens", "512"], "1x512"),
        (["--variants", "bf17"], "bf16"),
        (["--threads", "0"], "--threads"),
        (["--threads", str(10 * (os.cpu_count() or 1))], "--threads"),
        (["--repeats", "0"], "--repeats"),
        (["--quick", "--models", "2x128,llada-tiny"], "--quick"),
        (["--quick", "--tokens", "1x32,1x128"], "--quick"),
        (["--tokens", "1x1"], "--logits all"),
        (["--prepare-only"], "--keep"),
        (["--json", "rows.txt"], ".json"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(
    options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cpu.main(options) == 2
    out = capsys.readouterr()
    assert told in out.err
    assert not out.out


def test_shapes_are_sorted_and_models_kept_in_order() -> None:
    assert [str(s) for s in shapes("4x512,1x32,2x16")] == ["2x16", "1x32", "4x512"]
    assert [m.name for m in models("2x128,llada-tiny")] == ["2x128", "llada-tiny"]
    with pytest.raises(InputError, match="malformed"):
        shapes("0x5")


def test_a_worker_says_why_it_failed_and_goes_on_saying_so(tmp_path: Path) -> None:
    place = Place(tmp_path, TINY, 1)
    worker = Worker(Variant("nowhere", "peer", "no_such_module"), place, patience=60)
    try:
        for _ in range(2):
            with pytest.raises(WorkerError, match="no_such_module"):
                worker.ask("ready", False, Shape(1, 4))
    finally:
        worker.stop()


def test_a_worker_that_ends_or_is_late_is_told_apart(tmp_path: Path) -> None:
    place = Place(tmp_path, TINY, 1)
    ended = Worker(Variant("ended", "peer", "x"), place, patience=60)
    ended.interrupt()
    with pytest.raises(WorkerError, match="ended with exit code"):
        ended.ask("run", False)
    late = Worker(Variant("late", "peer", "x"), place, patience=0.01)
    with pytest.raises(WorkerError, match=r"no answer to 'run' within"):
        late.ask("run", False)


def test_peak_memory_is_the_process_own() -> None:
    before = peak_bytes()
    held = np.ones(40_000_000 // 8)
    assert peak_bytes() >= before
    assert peak_bytes() > held.nbytes
