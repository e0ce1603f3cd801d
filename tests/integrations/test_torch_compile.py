"""torch.compile(backend="starquant"): the codes of compile(), for every call of the model, and no stale ones."""

from __future__ import annotations

import copy
import functools
import gc
import weakref
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.registry import lookup_backend

import starquant_fx
from starquant_fx.artifact import save_artifact
from starquant_fx.compiled import CompiledModel
from starquant_fx.errors import CaptureError, RecipeError, StaleParametersError
from starquant_fx.integrations.torch_compile import starquant
from starquant_fx.recipe import Recipe
from tests.small_models import MASK, masked_ids, model
from tests.small_programs import quick


@pytest.fixture(autouse=True)
def _forget_graphs() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@functools.cache
def calibration(kind: str) -> Tensor:
    return masked_ids(kind, (6, 16), ratio=0.0, seed=7)


@functools.cache
def recipe(kind: str) -> Recipe:
    return quick("star-w4a4" if kind.startswith("llada") else "rtn-w4a4")


@functools.cache
def compiled(kind: str) -> CompiledModel:
    return starquant_fx.compile(
        model(kind), recipe(kind), calibration=calibration(kind), mask_token_id=MASK[kind]
    )


def through_torch(
    module: Callable[..., Any], dynamic: bool | None = None, **options: Any
) -> Callable[..., Any]:
    run: Callable[..., Any] = torch.compile(
        module, backend="starquant", options=options, dynamic=dynamic
    )
    return run


@torch.no_grad()
def logits(run: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
    out: Tensor = run(*args, **kwargs).logits
    return out


@pytest.mark.parametrize(
    "kind",
    [
        "llada-short",
        "bert-short",
        *(pytest.param(k, marks=pytest.mark.slow) for k in ("llada", "dream")),
    ],
)
def test_same_codes_and_logits_as_compile(kind: str) -> None:
    ids = masked_ids(kind, (2, 9), ratio=0.5)
    run = through_torch(
        model(kind),
        recipe=recipe(kind),
        calibration=calibration(kind),
        mask_token_id=MASK[kind],
    )
    got = run(input_ids=ids)
    (artifact,) = starquant.artifacts(model(kind))
    tensors, expected = artifact.program.tensors(), compiled(kind).program.tensors()
    assert any(name.endswith(".packed") for name in expected)
    assert tensors.keys() == expected.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], expected[name])] == []
    assert torch.equal(got.logits, logits(compiled(kind), ids))
    assert type(got) is type(model(kind)(ids))
    assert not got.logits.requires_grad


@pytest.mark.slow
def test_other_shapes_use_the_same_codes() -> None:
    run = through_torch(model("odd"), recipe=recipe("odd"), calibration=calibration("odd"))
    for shape in ((2, 9), (7, 7), (2, 13), (1, 5)):
        ids = masked_ids("odd", shape, ratio=0.5)
        assert torch.equal(logits(run, ids), logits(compiled("odd"), ids))
    assert len(starquant.artifacts(model("odd"))) == 1


def test_dynamic_shapes_from_the_start() -> None:
    run = through_torch(model("odd"), dynamic=True, artifact=compiled("odd"))
    for shape in ((7, 7), (2, 9)):
        ids = masked_ids("odd", shape, ratio=0.5)
        assert torch.equal(logits(run, ids), logits(compiled("odd"), ids))


def test_padding_and_strided_ids() -> None:
    run = through_torch(model("odd"), artifact=compiled("odd"))
    ids, keep = masked_ids("odd", (2, 18), ratio=0.5)[:, ::2], torch.ones(2, 9, dtype=torch.long)
    keep[1, :4] = 0
    assert torch.equal(logits(run, ids, keep), logits(compiled("odd"), ids, keep))


def test_dream_with_positions_and_a_key_mask() -> None:
    ids = masked_ids("dream-short", (2, 9), ratio=0.5)
    keep = torch.ones(2, 9, dtype=torch.long)
    keep[0, :3] = 0
    arguments = {
        "attention_mask": keep.bool()[:, None, None, :],
        "position_ids": (keep.cumsum(1) - 1).clamp(min=0),
    }
    run = through_torch(model("dream-short"), artifact=compiled("dream-short"))
    expected = logits(compiled("dream-short"), ids, **arguments)
    assert torch.equal(logits(run, ids, **arguments), expected)


def test_generates_what_the_compiled_model_generates() -> None:
    run: Any = through_torch(model("odd"), artifact=compiled("odd"))
    prompt = masked_ids("odd", (1, 4), ratio=0.0)
    arguments: dict[str, Any] = {"steps": 4, "gen_length": 4, "block_length": 4}
    expected = compiled("odd").generate(prompt, **arguments)
    assert torch.equal(starquant_fx.generate(run, prompt, **arguments), expected)


def in_place(module: nn.Module) -> Callable[..., Any]:
    module.compile(backend="starquant", options={"artifact": compiled("odd")})
    return module


def in_a_function(module: nn.Module) -> Callable[..., Any]:
    def step(input_ids: Tensor) -> Any:
        return module(input_ids)

    return through_torch(step, artifact=compiled("odd"))


def calibrated_in_place(module: nn.Module) -> Callable[..., Any]:
    options = {"recipe": recipe("odd"), "calibration": calibration("odd")}
    module.compile(backend="starquant", options=options)
    return torch.inference_mode()(module)


@pytest.mark.parametrize("form", [in_place, in_a_function, calibrated_in_place])
def test_other_forms_of_the_call(form: Callable[[nn.Module], Callable[..., Any]]) -> None:
    ids = masked_ids("odd", (2, 9), ratio=0.5)
    run = form(copy.deepcopy(model("odd")))
    assert torch.equal(logits(run, ids), logits(compiled("odd"), ids))


def test_takes_a_saved_artifact(tmp_path: Path) -> None:
    path = save_artifact(compiled("odd"), tmp_path / "codes.safetensors")
    ids = masked_ids("odd", (2, 9), ratio=0.5)
    run = through_torch(model("odd"), recipe=recipe("odd"), artifact=path)
    assert torch.equal(logits(run, ids), logits(compiled("odd"), ids))


def query(module: nn.Module) -> Any:
    return module.get_submodule("model.transformer.blocks.0.q_proj")


def edited(module: nn.Module) -> None:
    query(module).weight.data[3, 5] += 0.5


def data_replaced(module: nn.Module) -> None:
    query(module).weight.data = query(module).weight.data * 2


def parameter_replaced(module: nn.Module) -> None:
    query(module).weight = nn.Parameter(query(module).weight * 2)


@pytest.mark.parametrize("edit", [edited, data_replaced, parameter_replaced])
def test_changed_parameters_are_refused(edit: Callable[[nn.Module], None]) -> None:
    own = copy.deepcopy(model("odd"))
    run = through_torch(own, artifact=compiled("odd"))
    ids = masked_ids("odd", (2, 9), ratio=0.5)
    logits(run, ids)
    edit(own)
    with pytest.raises(StaleParametersError, match="changed after") as refusal:
        logits(run, ids)
    assert refusal.value.where == "model.transformer.blocks.0.q_proj.weight"


def test_changed_parameters_are_refused_by_a_graph_traced_later() -> None:
    own = copy.deepcopy(model("odd"))
    run = through_torch(own, artifact=compiled("odd"))
    ids = masked_ids("odd", (2, 9), ratio=0.5)
    logits(run, ids)
    edited(own)
    with pytest.raises(StaleParametersError, match="changed after"):
        logits(run, ids[:, :4])


def test_after_a_reset_the_model_is_compiled_as_it_is() -> None:
    own = copy.deepcopy(model("odd"))
    run = through_torch(own, recipe=recipe("odd"), calibration=calibration("odd"))
    ids = masked_ids("odd", (2, 9), ratio=0.5)
    for _ in range(2):
        edited(own)
        torch._dynamo.reset()
        logits(run, ids)
    again = starquant_fx.compile(own, recipe("odd"), calibration=calibration("odd"))
    assert torch.equal(logits(run, ids), logits(again, ids))


def test_a_changed_number_is_refused() -> None:
    own: Any = copy.deepcopy(model("odd"))
    run = through_torch(own, dynamic=True, artifact=compiled("odd"))
    ids = masked_ids("odd", (2, 9), ratio=0.5)
    logits(run, ids)
    own.config.rope_theta *= 2
    with pytest.raises(StaleParametersError, match="number") as refusal:
        logits(run, ids)
    assert "rope_theta" in str(refusal.value.where)


def test_compiled_graphs_do_not_keep_the_model_alive() -> None:
    own = copy.deepcopy(model("odd"))
    run = through_torch(own, artifact=compiled("odd"))
    logits(run, masked_ids("odd", (2, 9), ratio=0.5))
    alive = weakref.ref(own)
    del own, run
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "star-w4b4"}, "malformed bits"),
        ({"recipe": "stor-w4a4"}, "did you mean 'star-w4a4'"),
        ({"calibraton": None}, "did you mean 'calibration'"),
        ({"artifact": 3}, "not an artifact"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        logits(through_torch(model("odd"), **options), masked_ids("odd", (2, 9), ratio=0.5))


def test_options_that_contradict_an_artifact_are_refused() -> None:
    ids, artifact = masked_ids("odd", (2, 9), ratio=0.5), compiled("odd")
    with pytest.raises(RecipeError, match="calibration"):
        logits(through_torch(model("odd"), artifact=artifact, calibration=calibration("odd")), ids)
    with pytest.raises(RecipeError, match="rtn-w4a4"):
        logits(through_torch(model("odd"), artifact=artifact, recipe="rtn-w8a8"), ids)


def test_an_artifact_of_another_model_is_refused() -> None:
    own = copy.deepcopy(model("odd"))
    edited(own)
    with pytest.raises(StaleParametersError, match="other parameters"):
        logits(through_torch(own, artifact=compiled("odd")), masked_ids("odd", (2, 9), ratio=0.5))


class Broken(nn.Module):
    """A model whose graph breaks before, or after, its attention."""

    def __init__(self, early: bool) -> None:
        super().__init__()
        self.inner = copy.deepcopy(model("odd"))
        self.early = early

    def forward(self, input_ids: Tensor) -> Any:
        if self.early:
            input_ids = input_ids + 0
            torch._dynamo.graph_break()
        out: Any = self.inner(input_ids)
        torch._dynamo.graph_break()
        return type(out)(out.logits * 2)


@pytest.mark.parametrize("early", [True, False])
def test_a_part_of_a_model_is_refused(early: bool) -> None:
    run = through_torch(Broken(early).eval(), recipe="rtn-w4a4", mask_token_id=MASK["odd"])
    with pytest.raises(CaptureError) as refusal:
        logits(run, masked_ids("odd", (2, 9), ratio=0.5))
    assert "fullgraph=True" in str(refusal.value.hint)


def test_a_graph_without_attention_is_refused() -> None:
    eager: Any = copy.deepcopy(model("bert"))
    eager.config._attn_implementation = "eager"
    run = through_torch(eager, recipe="rtn-w4a4", mask_token_id=MASK["bert"])
    with pytest.raises(CaptureError, match="scaled_dot_product_attention") as refusal:
        logits(run, masked_ids("bert", (2, 9), ratio=0.5))
    assert "attn_implementation='sdpa'" in str(refusal.value.hint)
    assert starquant.artifacts(eager) == []


def test_more_than_logits_is_refused() -> None:
    run = through_torch(model("odd"), artifact=compiled("odd"))
    with pytest.raises(CaptureError, match="more than logits"):
        logits(run, masked_ids("odd", (2, 9), ratio=0.5), output_hidden_states=True)


def test_training_mode_is_refused_until_eval_is_called() -> None:
    own = copy.deepcopy(model("odd")).train()
    ids = masked_ids("odd", (2, 9), ratio=0.5)
    run = through_torch(own, artifact=compiled("odd"))
    with pytest.raises(CaptureError, match="training mode"):
        logits(run, ids)
    own.eval()
    assert torch.equal(logits(run, ids), logits(compiled("odd"), ids))


def test_one_model_with_two_sets_of_options() -> None:
    ids, texts = masked_ids("odd", (2, 9), ratio=0.5), calibration("odd")
    low = through_torch(model("odd"), artifact=compiled("odd"))
    high = through_torch(model("odd"), recipe="rtn-w8a8", calibration=texts)
    same = through_torch(model("odd"), recipe="rtn-w8a8", calibration=texts)
    for _ in range(2):
        assert torch.equal(logits(low, ids), logits(compiled("odd"), ids))
        assert not torch.equal(logits(low, ids), logits(high, ids))
        assert torch.equal(logits(high, ids), logits(same, ids))
    assert len(starquant.artifacts(model("odd"))) == 2


def test_torch_finds_the_backend_by_its_name() -> None:
    assert lookup_backend("starquant") is starquant
    found = [e for e in entry_points(group="torch_dynamo_backends") if e.name == "starquant"]
    assert [e.load() for e in found] == [starquant] * len(found)
