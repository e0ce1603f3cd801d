"""What the cost model works on: a model built without weights, captured, rewritten and lowered."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from starquant_fx.capture import capture, skeleton
from starquant_fx.cost.graph import GraphCost, cost_of
from starquant_fx.cost.retrace import retrace
from starquant_fx.errors import InputError, nearest
from starquant_fx.lowering import TARGETS, choose_target, lower
from starquant_fx.lowering.rows import at_rows
from starquant_fx.model_facts import mask_token_of
from starquant_fx.models.folder import read_config
from starquant_fx.models.locate import SHIPPED, locate
from starquant_fx.models.published import published_config
from starquant_fx.models.registry import ARCHITECTURES
from starquant_fx.pass_manager import run_passes
from starquant_fx.program import Program
from starquant_fx.recipe import Recipe

LLADA_8B: dict[str, Any] = {
    "model_type": "llada",
    "d_model": 4096,
    "n_heads": 32,
    "n_layers": 32,
    "mlp_hidden_size": 12288,
    "vocab_size": 126464,
    "embedding_size": 126464,
    "mask_token_id": 126336,
    "eos_token_id": 126081,
    "max_sequence_length": 4096,
    "rope_theta": 500000.0,
}
DREAM_7B: dict[str, Any] = {
    "model_type": "Dream",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "mask_token_id": 151666,
    "max_position_embeddings": 131072,
    "rope_theta": 1000000.0,
}
_BENCHMARK = {
    **LLADA_8B,
    "vocab_size": 32000,
    "embedding_size": 32000,
    "mask_token_id": 31999,
    "eos_token_id": 0,
}
SIZES: dict[str, dict[str, Any]] = {
    "LLaDA-8B": LLADA_8B,
    "Dream-7B": DREAM_7B,
    "12x1024": {
        **_BENCHMARK,
        "d_model": 1024,
        "n_heads": 16,
        "n_layers": 12,
        "mlp_hidden_size": 3072,
    },
    "2x4096": {**_BENCHMARK, "n_layers": 2},
}
"""Configurations by name: the published ones, and the models of ``benchmarks/cpu.py``."""


@dataclasses.dataclass(frozen=True)
class Costs:
    """The full-precision model and the quantized one.

    Attributes:
        model: Name of the model.
        recipe: Name of the recipe.
        target: Name of the target.
        bf16: Cost of the captured graph, as the model is.
        quantized: Cost of the lowered graph.
        notes: What has to be known to read them.
        layers: How many were counted instead of the model's own; None: its own.
    """

    model: str
    recipe: str
    target: str
    bf16: GraphCost
    quantized: GraphCost
    notes: tuple[str, ...] = ()
    layers: int | None = None

    @property
    def title(self) -> str:
        """The model, and how much of it."""
        if self.layers is None:
            return self.model
        return f"{self.model} with {self.layers} layer{'s' if self.layers > 1 else ''} only"


def costs(
    model: str,
    recipe: Recipe,
    target: str = "auto",
    *,
    layers: int | None = None,
    masked_rows: bool = False,
) -> Costs:
    """Captures a model from its configuration in bf16, rewrites it without weights, and counts.

    Args:
        model: A name in ``SIZES``, a shipped model, or a folder.
        recipe: The recipe.
        target: A target's name; ``auto`` = the fastest that runs on this machine's CPU.
        layers: Number of layers instead of the configuration's.
        masked_rows: Logits, and the last layer's MLP, only for R rows, in both graphs.

    Returns:
        The costs.

    Raises:
        InputError: There is no such model.
        LoweringError: There is no such target.
        StarQuantError: The model cannot be captured, or the recipe does not fit it.
    """
    # Nothing runs, so that a target is counted on a machine that it does not run on, too.
    resolved = target if target in TARGETS else choose_target(target, torch.device("cpu"))
    built = fake_model(model, layers)
    program = capture(built, recipe, mask_token_id=mask_token_of(built))
    captured = _without_assertions(program)
    run_passes(program, recipe.passes)
    with program.fake_mode:
        lowered = lower(program, resolved)
    plain = _costed(captured, program, masked_rows)  # now the sites are known
    found = _costed(lowered, program, masked_rows)
    own = any(n.operator.startswith("starquant.panel") for n in found.nodes)
    notes: tuple[str, ...] = ()
    if resolved == "cpu" and not own and any(program.quantized_sites()):
        notes = ("the CPU kernels do not run on this machine: the reference graph is counted",)
    return Costs(model, recipe.name, resolved, plain, found, notes, layers)


def fake_model(name: str, layers: int | None = None) -> nn.Module:
    """Builds a model in bf16 whose parameters take no memory.

    Args:
        name: A name in ``SIZES``, a shipped model, or a folder.
        layers: Number of layers instead of the configuration's.

    Returns:
        The model, in evaluation mode.

    Raises:
        InputError: There is no such model, or its layers cannot be chosen.
        StarQuantError: The folder holds no usable model.
    """
    known = {one.lower(): config for one, config in SIZES.items()}
    config = known.get(name.lower())
    folder = Path(name)
    if config is None:
        if name not in SHIPPED and not folder.is_dir():
            raise InputError(
                f"there is no model {name!r}",
                where="MODEL",
                expected=f"{', '.join((*SIZES, *SHIPPED))}, or a folder",
                got=repr(name),
                hint=nearest(name.lower(), (*known, *SHIPPED)) or "check the spelling",
            )
        folder = locate(name)
        config = read_config(folder)
    architecture = ARCHITECTURES.get(config["model_type"])
    if architecture is None:
        return _loaded(name, layers)
    values = dict(config) if layers is None else {**config, architecture.depth: layers}
    if name.lower() in known:
        sizes: Any = architecture.config(**values)
    else:
        sizes = published_config(architecture, values, folder)
    with torch.device("meta"):
        built = architecture.model(sizes)
    with FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True):
        for module in built.modules():
            for leaf, parameter in module._parameters.items():
                if parameter is not None:
                    fake = torch.empty(parameter.shape, dtype=torch.bfloat16, device="cpu")
                    module._parameters[leaf] = nn.Parameter(fake, requires_grad=False)
    return built.eval()


def _loaded(name: str, layers: int | None) -> nn.Module:
    """A model of transformers', which holds buffers that a capture needs: loaded, then without its weights."""
    from starquant_fx.models.loading import from_pretrained

    if layers is not None:
        raise InputError(
            "the layers of this model cannot be chosen",
            where="--layers",
            expected=f"a model of type {' or '.join(ARCHITECTURES)}",
            got=name,
        )
    model, _ = from_pretrained(name, dtype=torch.bfloat16)
    twin = skeleton(model).eval()
    twin.config = model.config
    return twin


def _without_assertions(program: Program) -> fx.GraphModule:
    """A copy of the captured graph without the checks of types that export puts in."""
    module = program.copied_module()
    for node in reversed(module.graph.nodes):
        if node.target == torch.ops.aten._assert_tensor_metadata.default:
            module.graph.erase_node(node)
    return module


def _costed(module: fx.GraphModule, program: Program, masked_rows: bool) -> GraphCost:
    wanted = at_rows(module) if masked_rows else module
    return cost_of(retrace(wanted, program.fake_mode), program.sites)
