"""``torch.compile(model, backend="starquant", options={"recipe": "star-w4a4"})``.

TorchDynamo traces the model and hands over its graph. The model is calibrated once, by ``starquant_fx.compile``; every
graph of it, whatever its shapes and arguments, is then captured, rewritten by the recipe's passes without weights, and
given the same codes.

Importing this module registers the backend; an installed package is found by name without any import.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._dynamo.backends.registry import register_backend

from starquant_fx.capture import capture
from starquant_fx.compiled import CompiledModel
from starquant_fx.errors import CaptureError, StarQuantError
from starquant_fx.integrations.backend_options import DEFAULT_RECIPE, BackendOptions
from starquant_fx.integrations.dynamo_graph import WHOLE, DynamoGraph, GraphOfModel, read_graph
from starquant_fx.integrations.parameter_watch import ParameterWatch
from starquant_fx.program import LINEAR, Program, facts
from starquant_fx.recipes import get_recipe

NAME = "starquant"


@dataclasses.dataclass(frozen=True, eq=False)
class _Compilation:
    """What all graphs of one model share: how it was asked for, the codes, and the parameters they were made from."""

    model: weakref.ref[nn.Module]
    options: BackendOptions
    artifact: CompiledModel
    watch: ParameterWatch


class Backend:
    """The backend. Recompilations of a model (other shapes, other arguments) reuse the codes of its first compilation.

    The model must be in evaluation mode and traced whole. Its logits carry no gradients.
    """

    __name__ = NAME

    def __init__(self) -> None:
        # Only the compiled graphs keep their compilation: what TorchDynamo forgets is compiled anew.
        self._living: weakref.WeakSet[_Compilation] = weakref.WeakSet()

    def __call__(
        self,
        graph: fx.GraphModule,
        example_inputs: Sequence[Any],
        *,
        options: Mapping[str, Any] | None = None,
    ) -> Callable[..., tuple[Tensor]]:
        """Takes one graph; it is compiled when it is first called.

        Args:
            graph: What TorchDynamo traced.
            example_inputs: The inputs of the call that is being traced.
            options: See ``BackendOptions``.

        Returns:
            A callable from the graph's inputs to its outputs, the logits. Everything that can be wrong is raised by its
            calls: a RecipeError about the options, a CaptureError if the graph is not the whole of a model in
            evaluation mode, what ``starquant_fx.compile`` raises, and a StaleParametersError when a parameter is no
            longer what it was at the model's first compilation.
        """
        try:
            asked = BackendOptions.parse(options)
            traced = read_graph(graph, example_inputs)
        except StarQuantError as error:
            return _Refusal(error)
        return _Runner(traced, lambda model: self._compilation(model, asked))

    def artifacts(self, model: nn.Module) -> list[CompiledModel]:
        """What was compiled of a model and is in use: to read the report, or to save the codes.

        Args:
            model: The model that torch.compile was called on.

        Returns:
            One compiled model for each different ``options``.
        """
        return [one.artifact for one in self._living if one.model() is model]

    def _compilation(self, model: nn.Module, asked: BackendOptions) -> _Compilation:
        for one in self._living:
            if one.model() is model and one.options.same(asked):
                return one
        made = _Compilation(weakref.ref(model), asked, asked.make(model), ParameterWatch(model))
        self._living.add(made)
        return made


class _Refusal:
    """Stands for a graph that is refused; raised by the call, because TorchDynamo rewraps what a backend raises."""

    def __init__(self, error: StarQuantError) -> None:
        self._error = error

    def __call__(self, *inputs: Any) -> tuple[Tensor]:
        raise self._error


class _Runner:
    """A graph as TorchDynamo calls it.

    It is compiled by its first call: within the trace torch behaves differently (optimizers for one take other steps),
    and the codes would differ from those of ``starquant_fx.compile``.

    Args:
        traced: The graph.
        compilation: Compiles a model, or finds its compilation.
    """

    # Without a __dict__: TorchDynamo copies that of a callable, and would hold on to what is pending.
    __slots__ = (
        "__weakref__",
        "_arguments",
        "_compilation",
        "_lowered",
        "_numbers",
        "_owned",
        "_pending",
    )

    def __init__(
        self, traced: DynamoGraph, compilation: Callable[[nn.Module], _Compilation]
    ) -> None:
        self._pending: Callable[[], tuple[fx.GraphModule, _Compilation]] | None
        self._pending = lambda: _build(traced, compilation)
        self._owned, self._numbers = traced.owned, traced.numbers
        index_of = {name: index for index, name in traced.arguments.items()}
        self._arguments = [index_of[name] for name in traced.examples]

    def __call__(self, *inputs: Any) -> tuple[Tensor]:
        if self._pending is not None:
            # A model that was compiled in place would call itself.
            with (
                torch.compiler.set_stance("force_eager"),
                torch.inference_mode(False),
                torch.enable_grad(),
            ):
                self._lowered, self._compilation = self._pending()
            self._pending = None  # and with it the model, which this graph must not keep alive
        self._compilation.watch.check({n: inputs[index] for index, n in self._owned.items()})
        for index, number in self._numbers.items():
            number.check(inputs[index])
        return (self._lowered(*(inputs[index].contiguous() for index in self._arguments)),)


def _build(
    traced: DynamoGraph, compilation: Callable[[nn.Module], _Compilation]
) -> tuple[fx.GraphModule, _Compilation]:
    """Captures the graph, rewrites it, and gives it the codes of the model's compilation."""
    if traced.model.training:
        raise CaptureError(
            "the model is in training mode",
            where=type(traced.model).__name__,
            expected="evaluation mode",
            got="model.training is True",
            hint="call model.eval() first",
        )
    program = _capture(traced)
    found = compilation(traced.model)
    artifact = found.artifact
    _check_whole(program, artifact.program)
    program.recipe, program.mask_token_id = artifact.recipe, artifact.program.mask_token_id
    return artifact.adopt(program), found


def _capture(traced: DynamoGraph) -> Program:
    """Captures the graph without weights; refuses a part of a model before anything is calibrated."""
    try:
        return capture(
            GraphOfModel(traced),
            get_recipe(DEFAULT_RECIPE),  # until the compilation says which
            mask_token_id=None,
            arguments=traced.examples,
            dynamic=traced.dynamic,
        )
    except CaptureError as error:
        name = type(traced.model).__name__
        raise CaptureError(
            error.what, where=name, expected=error.expected, got=error.got, hint=WHOLE
        ) from error


def _check_whole(program: Program, compiled: Program) -> None:
    """Refuses a graph that lacks linears of the compiled model."""
    here = {str(facts(n)["of"]) for n in program.nodes(LINEAR)}
    missing = [
        name for site in compiled.sites.values() for name in site.linears if name not in here
    ]
    if missing:
        raise CaptureError(
            "the graph is only a part of the model",
            where=missing[0],
            expected="a graph with this linear",
            got=f"{len(here)} linears, {len(missing)} missing",
            hint=WHOLE,
        )


starquant = Backend()

if NAME not in entry_points(group="torch_dynamo_backends").names:
    register_backend(starquant, name=NAME)
