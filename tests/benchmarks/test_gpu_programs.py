"""Random models and random programs of the GPU benchmark, at tiny size."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

import starquant_fx
from cpu_suite.runner import Logits
from cpu_suite.specs import Shape
from cpu_suite.weights import masked_rows, token_ids
from gpu_suite.generation import Generation
from gpu_suite.models import blocks, held_bytes, random_model, twin, with_linears
from gpu_suite.ours import ours
from gpu_suite.peers import Fp8Linear
from gpu_suite.random_programs import random_codes, require_gates_and_tac
from gpu_suite.runner import Runner
from gpu_suite.specs import DREAM, LLADA, MODELS, TINY_MODELS
from gpu_suite.subject import Subject
from starquant_fx.errors import PassError
from starquant_fx.models.dream import DreamConfig, DreamModel
from starquant_fx.models.llada import LladaConfig, LladaModel

CPU = torch.device("cpu")
SHAPE = Shape(2, 24)
INTERPRETED = Shape(2, 9)
"""More tokens than a tile has, for programs whose kernels are interpreted."""


@pytest.fixture(autouse=True)
def _one_thread() -> object:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=sorted(TINY_MODELS))
def subject(request: pytest.FixtureRequest) -> Subject:
    return Subject(dataclasses.replace(TINY_MODELS[request.param], layers=1), CPU)


def test_the_models_have_the_published_numbers_of_parameters() -> None:
    with torch.device("meta"):
        llada = LladaModel(LladaConfig.from_dict(MODELS[LLADA].published()))
        dream = DreamModel(DreamConfig.from_dict(MODELS[DREAM].published()))
    for model, spec, count in (
        (llada, MODELS[LLADA], 8_015_581_184),
        (dream, MODELS[DREAM], 7_615_616_512),
    ):
        assert sum(parameter.numel() for parameter in model.parameters()) == count
        sizes = [
            (m.in_features, m.out_features) for m in model.modules() if isinstance(m, nn.Linear)
        ]
        assert sorted(sizes) == sorted(spec.products)


def test_a_random_model_is_one_draw_with_logits_near_one(subject: Subject) -> None:
    spec, ids = subject.spec, token_ids(subject.spec, SHAPE)
    dtype = next(subject.model.parameters()).dtype  # float32 where Triton interprets
    again = random_model(spec, CPU, dtype=dtype)
    logits = subject.model(ids).logits
    assert torch.equal(again(ids).logits, logits)
    assert random_model(spec, CPU)(ids).logits.dtype == torch.bfloat16
    assert 0.5 < float(logits.float().std()) < 2
    assert not any(parameter.requires_grad for parameter in again.parameters())
    assert len(blocks(again)) == spec.layers


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param("star-w4a4", marks=pytest.mark.slow),
        pytest.param("star-w8a8", marks=pytest.mark.slow),
        "star+embed8-w4a4[role:head=w8a8]",
    ],
)
def test_a_random_program_runs_and_agrees_with_itself_at_rows(
    subject: Subject, recipe: str
) -> None:
    ids = token_ids(subject.spec, INTERPRETED)
    rows = masked_rows(subject.spec, ids)
    runner = ours(subject, recipe)
    logits = runner.forward(ids, None)
    assert logits.shape == (*ids.shape, subject.spec.vocab)
    assert bool(logits.isfinite().all())
    assert 0.5 < float(logits.float().std()) < 2
    assert torch.equal(runner.forward(ids, rows), logits.flatten(0, 1)[rows])
    assert runner.head == ("int8" if "head" in recipe else "bf16")
    assert runner.weight_bytes <= runner.held_bytes


def test_fewer_bits_take_fewer_bytes(subject: Subject) -> None:
    four, eight = (ours(subject, recipe).weight_bytes for recipe in ("star-w4a4", "star-w8a8"))
    assert four < eight


def test_a_graph_without_gates_or_tac_is_refused(subject: Subject) -> None:
    for recipe, missing in (("rtn-w4a4", "gates"), ("sgat-w4a4", "TAC")):
        program = subject.captured.rewritten(recipe)
        with pytest.raises(PassError, match=missing):
            require_gates_and_tac(program.graph)


def test_random_codes_fill_their_grid() -> None:
    codes = random_codes(64, 512, 4, torch.Generator().manual_seed(0))
    assert codes.dtype == torch.int8
    assert int(codes.min()) >= -8
    assert int(codes.max()) == 7
    assert abs(float(codes.float().mean())) < 0.1


def test_a_twin_shares_every_weight_and_another_linear_changes_only_the_twin(
    subject: Subject,
) -> None:
    ids = token_ids(subject.spec, SHAPE)
    before = subject.model(ids).logits
    other = with_linears(subject.model, lambda linear: nn.Identity(), head=False)
    kept = sum(isinstance(m, nn.Linear) for m in other.modules())
    assert kept == 1  # the head
    assert torch.equal(subject.model(ids).logits, before)
    pair = (subject.model, twin(subject.model))
    assert held_bytes(CPU, *pair) == held_bytes(CPU, subject.model)


def test_fp8_linears_hold_a_byte_a_weight() -> None:
    linear = nn.Linear(64, 32, bias=False, dtype=torch.bfloat16)
    made = Fp8Linear(linear)
    assert held_bytes(CPU, made) == 64 * 32 + 32 * 4
    weight = made.get_buffer("weight").float() * made.get_buffer("scale")
    assert float((weight - linear.weight.float()).abs().max()) < 0.07 * float(
        linear.weight.abs().max()
    )


def test_the_loop_of_fixed_shapes_generates_what_the_sampler_does() -> None:
    spec = TINY_MODELS["llada-tiny"]
    model = random_model(spec, CPU)
    # A head that never prefers the mask token, which the sampler would take and the loop would not.
    model.get_submodule("model.transformer.ff_out").weight[-1] = 0  # type: ignore[operator]
    prompt = token_ids(spec, Shape(2, 12)).clamp(max=spec.vocab - 2)
    expected = starquant_fx.generate(
        model, prompt, steps=4, gen_length=12, block_length=12, progress=False
    )
    plain = Runner(Logits(model), 0, 0)
    for masked in (True, False):
        made = Generation(spec, SHAPE, prompt, plain, masked, 4)
        for _ in range(2):  # again, after a reset
            made.reset()
            for _ in range(4):
                made.step()
            assert torch.equal(made.ids, expected)


def test_a_shifted_model_is_read_a_position_before_and_greedy_choices_may_be_its_own() -> None:
    spec = TINY_MODELS["dream-tiny"]
    seen: list[Tensor] = []

    def greedy(ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen.append(rows)
        flat = torch.zeros(len(rows))
        return flat, torch.full_like(rows, 5), flat + torch.arange(len(rows))

    def forward(ids: Tensor, rows: Tensor | None) -> Tensor:
        raise AssertionError("no logits are needed")

    runner = dataclasses.replace(Runner(forward, 0, 0), greedy=greedy)
    made = Generation(spec, Shape(2, 8), torch.full((2, 4), 3), runner, True, 2)
    half = made.step().clone()
    assert seen[0].tolist() == [3, 4, 5, 6, 11, 12, 13, 14]
    mask = spec.vocab - 1
    assert half[0].tolist() == [3, 3, 3, 3, mask, mask, 5, 5]  # the surest two
    assert not bool((made.step() == mask).any())
