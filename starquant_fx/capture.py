"""Capture: a model becomes a program by FakeTensor export to canonical FX. No weights are touched or needed."""

from __future__ import annotations

import copy
import operator
import threading
import warnings
from collections import Counter
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export import Dim
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from starquant_fx import operators as _operators  # noqa: F401  (registers the operators)
from starquant_fx.devices import making_float32
from starquant_fx.errors import CaptureError, StarQuantError, cause
from starquant_fx.program import ATTENTION, LINEAR, Program, note

if TYPE_CHECKING:
    from starquant_fx.recipe import Recipe

EXAMPLE_BATCH, EXAMPLE_LENGTH = 2, 12
"""A batch of one would specialise to a constant; the length only has to differ from every other size."""
TRACING = threading.RLock()
"""Held by the thread that traces: it changes state of the whole process, and traces of one model share fake tensors."""


class _LogitsOnly(nn.Module):
    """Gives a model positional arguments in a fixed order and the logits as its only result."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *args: Tensor) -> Tensor:
        out = self.model(**dict(zip(self.names, args, strict=True)))
        logits = out if isinstance(out, Tensor) else getattr(out, "logits", None)
        if not isinstance(logits, Tensor):
            raise CaptureError(
                "the model returns no logits",
                where=type(self.model).__name__,
                expected="a Tensor or an object with .logits",
                got=type(out).__name__,
                hint="wrap the model in a module whose forward returns the logits",
            )
        return logits


def example_inputs(arguments: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Small inputs of the same kind (rank, dtype, which dimensions are 1) as a call's, to trace with.

    Args:
        arguments: The tensors of a call by argument name; only ``input_ids`` [B, L] when None.

    Returns:
        Tensors by argument name.
    """
    examples: dict[str, Tensor] = {}
    for name, value in (arguments or {"input_ids": torch.zeros(2, 2, dtype=torch.long)}).items():
        if value.dim() == 2:
            shape: tuple[int, ...] = (
                1 if value.shape[0] == 1 and name == "position_ids" else EXAMPLE_BATCH,
                EXAMPLE_LENGTH,
            )
        elif value.dim() == 4:
            one_query = value.shape[2] == 1 and value.shape[3] != 1
            shape = (EXAMPLE_BATCH, 1, 1 if one_query else EXAMPLE_LENGTH, EXAMPLE_LENGTH)
        else:
            raise CaptureError(
                "cannot trace an argument of this rank",
                where=name,
                expected="[B, L] or [B, 1, L, L]",
                got=str(list(value.shape)),
                hint="leave the argument out, or give it one of these shapes",
            )
        examples[name] = torch.ones(shape, dtype=value.dtype)
    return examples


def _dynamic(value: Tensor) -> dict[int, Any]:
    return {axis: Dim.DYNAMIC for axis, size in enumerate(value.shape) if size > 1}


def capture(
    model: nn.Module,
    recipe: Recipe,
    *,
    mask_token_id: int | None,
    arguments: Mapping[str, Tensor] | None = None,
    dynamic: Mapping[str, Collection[int]] | None = None,
) -> Program:
    """Traces a model to a canonical FX graph.

    Args:
        model: A denoiser whose forward takes ``input_ids`` [B, L] and gives logits [B, L, vocab]; its parameters may be
            fake tensors.
        recipe: Kept in the program for the passes.
        mask_token_id: Id of the mask token, or None if the token state is an input.
        arguments: The tensors of a call by argument name (``input_ids`` first); each combination of arguments is a
            capture of its own. Batch and length stay dynamic.
        dynamic: For a model that is not free in batch and length: the axes of each argument that stay dynamic; the
            other sizes are those of ``arguments``.

    Returns:
        The program; its graph calls ``aten`` operators, keeping ``linear`` and ``scaled_dot_product_attention`` whole.

    Raises:
        CaptureError: The model cannot be traced, or has no attention or no linears.
    """
    examples = example_inputs(arguments) if dynamic is None else dict(arguments or {})
    axes = [
        _dynamic(v) if dynamic is None else dict.fromkeys(dynamic[n], Dim.DYNAMIC)
        for n, v in examples.items()
    ]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    mode = _fake_mode(model)
    wrapper = _LogitsOnly(model, tuple(examples)).eval()
    inputs = tuple(v.to(device) for v in examples.values())
    if mode is not None:
        inputs = tuple(mode.from_tensor(v) for v in inputs)
    try:
        with TRACING, making_float32(), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = _traced(wrapper, inputs, tuple(axes))
    except StarQuantError:
        raise
    except Exception as error:
        raise CaptureError(
            "the model cannot be traced",
            where=type(model).__name__,
            expected="a forward that torch.export can follow from input_ids [B, L] to logits",
            got=cause(error),
            hint="its forward must be free of data-dependent Python control flow",
        ) from error
    own_names = _own_names(model)
    program = _to_program(module, tuple(examples), recipe, mask_token_id, own_names)
    _check(program, model)
    return program


def _traced(
    wrapper: nn.Module, inputs: tuple[Tensor, ...], axes: tuple[dict[int, Any], ...]
) -> fx.GraphModule:
    """The exported graph, which holds the wrapper's own tensors, of inputs with these dynamic axes."""
    exported = torch.export.export(wrapper, inputs, dynamic_shapes={"args": axes}, strict=False)
    module = exported.run_decompositions({}).module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    return module


def _fake_mode(model: nn.Module) -> FakeTensorMode | None:
    """The fake mode of a model that was built without weights, or None."""
    return next((p.fake_mode for p in model.parameters() if isinstance(p, FakeTensor)), None)


def _own_names(model: nn.Module) -> dict[str, str]:
    """For tensors of several names (a head tied to the embedding): each name -> the one in the only linear module."""
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    own: dict[str, str] = {}
    for names in groups.values():
        owners = [model.get_submodule(name.rpartition(".")[0]) for name in names]
        linear = [n for n, o in zip(names, owners, strict=True) if isinstance(o, nn.Linear)]
        if len(linear) == 1:
            own.update(dict.fromkeys(names, linear[0]))
    return own


def _to_program(
    module: fx.GraphModule,
    names: tuple[str, ...],
    recipe: Recipe,
    mask_token_id: int | None,
    own_names: Mapping[str, str],
) -> Program:
    """Copies the exported graph into a plain one: inputs named as the model names them, one output, own tensors."""
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    arguments = iter(names)
    tensors: dict[str, Tensor] = {}
    calls: Counter[str] = Counter()
    mode: FakeTensorMode | None = None
    for node in module.graph.nodes:
        if node.op == "output":
            (flat,) = node.args
            logits = flat[0] if isinstance(flat, (tuple, list)) else flat
            graph.output(values[logits])
            continue
        new = graph.node_copy(node, lambda n: values[n])
        values[node] = new
        if node.op == "placeholder":
            name = next(arguments)
            new.target = new.name = name
            mode = node.meta["val"].fake_mode
        elif node.op == "get_attr":
            new.target = str(node.target).removeprefix("model.")
            tensors[new.target] = operator.attrgetter(str(node.target))(module).detach()
        elif node.target == LINEAR:
            note(new, of=_call_name(node, calls, own_names))
    assert mode is not None
    plain = fx.GraphModule(
        {name: value for name, value in tensors.items()}, graph, class_name="DenoiserGraph"
    )
    weightless = any(isinstance(t, FakeTensor) for t in tensors.values())
    program = Program(plain, mode, recipe, mask_token_id, weightless=weightless)
    for node in graph.nodes:
        if node.op == "get_attr":
            node.meta["val"] = program.fake(program.tensor(node))
    return program


def _call_name(linear: fx.Node, used: Counter[str], own_names: Mapping[str, str]) -> str:
    """Name of a call of a linear: its weight's, which no stack can lose; further calls of one weight are numbered."""
    weight = linear.args[1]
    assert isinstance(weight, fx.Node)
    name = linear.name
    if weight.op == "get_attr":
        name = str(weight.target).removeprefix("model.")
        name = own_names.get(name, name).removesuffix(".weight")
    used[name] += 1
    return name if used[name] == 1 else f"{name}_call{used[name]}"


def _check(program: Program, model: nn.Module) -> None:
    """Raises a CaptureError if the graph has nothing to quantize or no attention."""
    calls = [n.target for n in program.graph.nodes if n.op == "call_function"]
    for target, what, hint in (
        (LINEAR, "linear", "compute projections by nn.Linear or torch.nn.functional.linear"),
        (ATTENTION, "scaled_dot_product_attention", _attention_hint(model)),
    ):
        if target not in calls:
            most = [str(call) for call, _ in Counter(calls).most_common(5)]
            raise CaptureError(
                f"the graph has no {what}",
                where=type(model).__name__,
                expected="a transformer of linears and torch's scaled_dot_product_attention",
                got=f"{len(calls)} calls, most often of {', '.join(most) or 'nothing'}",
                hint=hint,
            )


def _attention_hint(model: nn.Module) -> str:
    """What makes a model compute attention by the operator that the passes know."""
    offered = getattr(model, "_supports_sdpa", None)  # what transformers says of its classes
    if offered is None:
        return "compute attention by torch.nn.functional.scaled_dot_product_attention"
    if offered:
        return "load it with attn_implementation='sdpa'"
    return f"transformers has no SDPA attention for {type(model).__name__}: use another model"


def skeleton(
    model: nn.Module, dtype: torch.dtype | None = None, device: torch.device | None = None
) -> nn.Module:
    """A copy of a model that holds fake parameters and its real small buffers: enough to capture it again.

    Args:
        model: The model, or such a copy.
        dtype: Of all floats of the copy; None = each as it is.
        device: Of the copy; None = each tensor where it is.

    Returns:
        The copy; its parameters take no memory.
    """

    def moved(tensor: Tensor) -> Tensor:
        kept = dtype if tensor.is_floating_point() else None
        return tensor.to(device=device or tensor.device, dtype=kept or tensor.dtype)

    mode = _fake_mode(model) or FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        fake = parameter.detach()
        if not isinstance(fake, FakeTensor):
            fake = mode.from_tensor(fake, static_shapes=True)
        memo[id(parameter)] = nn.Parameter(moved(fake), requires_grad=False)
    twin = copy.deepcopy(model, memo)
    for module in twin.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, moved(buffer))
    return twin
