"""Every way to change a parameter leaves a trace that the watch sees; no other use of a model does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from starquant_fx.errors import StaleParametersError
from starquant_fx.integrations.parameter_watch import ParameterWatch, named_tensors


def build(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Linear(3, 7, bias=False))
    return module.to(dtype).eval()


def weight(module: nn.Module) -> nn.Parameter:
    found: nn.Parameter = module.get_parameter("2.weight")
    return found


def in_place(module: nn.Module) -> None:
    with torch.no_grad():
        weight(module)[2, 1] += 0.5


def through_data(module: nn.Module) -> None:
    weight(module).data[2, 1] += 0.5


def negated_through_data(module: nn.Module) -> None:
    weight(module).data.neg_()


def data_replaced(module: nn.Module) -> None:
    weight(module).data = weight(module).data.clone()


def parameter_replaced(module: nn.Module) -> None:
    module.get_submodule("2").weight = nn.Parameter(weight(module) * 2)


def rows_swapped(module: nn.Module) -> None:
    with torch.no_grad():
        weight(module).copy_(weight(module).flip(0))


def loaded(module: nn.Module) -> None:
    module.load_state_dict({name: t + 1 for name, t in module.state_dict().items()})


def cast(module: nn.Module) -> None:
    module.to(torch.bfloat16)


def buffer_edited(module: nn.Module) -> None:
    module.get_buffer("1.running_mean").fill_(3.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "edit",
    [
        in_place,
        through_data,
        negated_through_data,
        data_replaced,
        parameter_replaced,
        rows_swapped,
        loaded,
        buffer_edited,
    ],
)
def test_a_change_is_refused(edit: Callable[[nn.Module], None], dtype: torch.dtype) -> None:
    module = build(dtype)
    watch = ParameterWatch(module)
    watch.check(named_tensors(module))
    edit(module)
    with pytest.raises(StaleParametersError) as refusal:
        watch.check(named_tensors(module))
    assert refusal.value.where in named_tensors(module)
    assert "torch._dynamo.reset()" in str(refusal.value)


def test_a_cast_is_refused() -> None:
    module = build()
    watch = ParameterWatch(module)
    cast(module)
    with pytest.raises(StaleParametersError):
        watch.check(named_tensors(module))


def test_the_changed_tensor_is_named() -> None:
    module = build()
    watch = ParameterWatch(module)
    through_data(module)
    with pytest.raises(StaleParametersError, match="the same tensor, edited") as refusal:
        watch.check(named_tensors(module))
    assert refusal.value.where == "2.weight"


def test_use_is_no_change() -> None:
    module = build()
    watch = ParameterWatch(module)
    module(torch.ones(2, 5)).sum().backward()
    module.requires_grad_(False)
    with torch.inference_mode():
        watch.check(named_tensors(module))


def test_views_with_odd_offsets_can_be_watched() -> None:
    storage = torch.arange(21, dtype=torch.bfloat16)
    module = nn.Module()
    module.weight = nn.Parameter(storage[1:8], requires_grad=False)
    module.transposed = nn.Parameter(storage[1:19].view(6, 3).T, requires_grad=False)
    watch = ParameterWatch(module)
    watch.check(named_tensors(module))
    storage.data[3] += 1
    with pytest.raises(StaleParametersError):
        watch.check(named_tensors(module))


def test_inference_tensors_can_be_watched() -> None:
    with torch.inference_mode():
        module = build()
    watch = ParameterWatch(module)
    watch.check(named_tensors(module))
    with torch.inference_mode():
        weight(module)[0, 0] += 1
    with pytest.raises(StaleParametersError):
        watch.check(named_tensors(module))
