"""The compiled model: the model's own call signature, generation, the program and the report."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor

from starquant_fx.arguments import bind, call_signature, capture_key
from starquant_fx.capture import TRACING, capture, skeleton
from starquant_fx.diffusion import generate
from starquant_fx.errors import InputError, LoweringError
from starquant_fx.lowering import lower
from starquant_fx.lowering.choice import kernels_in_use
from starquant_fx.lowering.greedy import greedy_at_rows
from starquant_fx.lowering.replay import CudaGraphs, Replays
from starquant_fx.lowering.rows import at_rows
from starquant_fx.lowering.tables import Laid
from starquant_fx.models.layers import DenoiserOutput
from starquant_fx.pass_manager import run_passes
from starquant_fx.program import CONSTANTS, Program
from starquant_fx.report import Report

if TYPE_CHECKING:
    from starquant_fx.export.api import ExportReport


class CompiledModel(nn.Module):
    """A low-bit denoiser.

    Calls take the original model's arguments and return an object with ``.logits``. The first call with a new kind of
    arguments (a padding mask, position ids) captures the model once more from fake tensors and binds the same weights;
    others that need a capture wait for it. Calls may come from several threads.

    It does not hold the original model; of its tensors it keeps those that no pass replaced.

    Attributes:
        config: The original model's configuration.
        program: The program that plain ``model(input_ids)`` calls run.
        report: What the compilation did.
        fingerprint: Of the original model's parameters.
        cuda_graphs: Whether the target ``triton`` records calls as CUDA graphs when they come a second time with the
            same shapes, and replays them from then on. Short calls are then not held up by their launches; every
            shape takes some memory. May be set at any time.
    """

    def __init__(
        self,
        frame: nn.Module,
        program: Program,
        report: Report,
        spare: dict[str, Tensor],
        signature_of: nn.Module,
        fingerprint: str,
        asked: str | None = None,
    ) -> None:
        super().__init__()
        self.config: Any = getattr(signature_of, "config", None)
        self.program = program
        self._laid: Laid = {}
        self.graph = lower(program, report.target, self._laid)
        self.fingerprint = fingerprint
        release_device_memory(program, self.graph)
        kernels = kernels_in_use(asked or report.target, program.device, self.graph.graph)
        self.report = dataclasses.replace(report, kernels=kernels)
        self._plain_inputs = [str(n.target) for n in program.graph.nodes if n.op == "placeholder"]
        self._signature: inspect.Signature = call_signature(signature_of)
        self._skeleton = [frame]
        self._spare = spare
        self._variants: dict[Any, fx.GraphModule] = {}
        self._at_rows: dict[fx.GraphModule, fx.GraphModule] = {}
        self._greedy: dict[fx.GraphModule, fx.GraphModule] = {}
        self.cuda_graphs = report.target == "triton"
        self._replays = Replays(CudaGraphs())
        if report.target == "triton":
            self._choosing(self._at(self.graph))  # torch.compile of greedy_at cannot make them

    @property
    def recipe(self) -> Any:
        """The recipe that the model was compiled with."""
        return self.program.recipe

    def forward(self, *args: Any, **kwargs: Any) -> DenoiserOutput:
        """Runs the low-bit graph.

        Args:
            *args: As the original model's forward.
            **kwargs: As the original model's forward; options other than tensors must be None or False.

        Returns:
            An object with ``.logits`` [B, L, vocab].

        Raises:
            InputError: The arguments do not fit the model, or a site of quantized activations reads NaN or Inf. What
                a head in full precision makes of them is returned as it is; samplers refuse NaN in it. The target
                ``triton`` looks at no values, so that nothing waits: there, such a token's logits are NaN.
        """
        graph, arguments = self._bound(args, kwargs)
        return DenoiserOutput(self._run(graph, list(arguments.values())))

    def logits_at(self, rows: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Logits at some positions; the head and the last layer's MLP are computed for these alone.

        Args:
            rows: [R] int64, positions in the flattened [B L].
            *args: As ``forward``.
            **kwargs: As ``forward``.

        Returns:
            [R, vocab].

        Raises:
            InputError: The arguments do not fit the model.
        """
        graph, inputs = self.graph_at_rows(args, kwargs)
        logits: Tensor = self._run(graph, [*inputs, rows])
        return logits[0]

    def greedy_at(self, rows: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
        """The most probable token at some positions; on the target ``triton`` without storing the logits.

        Args:
            rows: [R] int64, positions in the flattened [B L].
            *args: As ``forward``.
            **kwargs: As ``forward``.

        Returns:
            The largest logit [R], NaN if there is one; the token [R] int64, the first of the largest logits; and its
            probability [R].

        Raises:
            InputError: The arguments do not fit the model.
        """
        graph, inputs = self.graph_at_rows(args, kwargs)
        largest, tokens, probability = self._run(self._choosing(graph), [*inputs, rows])
        return largest, tokens, probability

    def graph_at_rows(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[fx.GraphModule, list[Tensor]]:
        """The graph that ``logits_at`` runs for arguments of ``forward``, and its inputs but for the rows.

        Raises:
            InputError: The arguments do not fit the model.
        """
        graph, arguments = self._bound(args, kwargs)
        return self._at(graph), list(arguments.values())

    def _at(self, graph: fx.GraphModule) -> fx.GraphModule:
        """A lowered graph at some rows."""
        return _made_once(self._at_rows, graph, lambda: at_rows(graph))

    def _choosing(self, at: fx.GraphModule) -> fx.GraphModule:
        """A graph at some rows, with the greedy choice."""
        fused = self.report.target == "triton"
        return _made_once(self._greedy, at, lambda: greedy_at_rows(at, fused))

    def _run(self, graph: fx.GraphModule, inputs: list[Tensor]) -> Any:
        """What a graph returns, replayed where that is wanted and can be."""
        if torch.compiler.is_compiling() or not self.cuda_graphs:
            return graph(*inputs)
        return self._replays(graph, inputs)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moves or casts tensors, as ``nn.Module.to`` does; recordings read them where they were."""
        self._replays.clear()
        return super()._apply(fn, recurse)

    def _bound(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[fx.GraphModule, dict[str, Tensor]]:
        """The graph for these arguments, and its inputs in order.

        Raises:
            InputError: The arguments do not fit the model.
        """
        arguments = bind(self._signature, self, args, kwargs)
        wanted = self.program.mask_token_id is None
        if ("token_state" in arguments) != wanted:
            raise InputError(
                "the token state is missing" if wanted else "this model takes no token state",
                where="token_state",
                expected="an integer tensor like input_ids"
                if wanted
                else "nothing: the mask token says it",
                got="none" if wanted else "a tensor",
                hint="token_state=is_masked.long()" if wanted else "leave token_state out",
            )
        if "token_state" not in self._plain_inputs:
            arguments.pop("token_state", None)  # a recipe without states does not read it
        plain = list(arguments) == self._plain_inputs
        return (self.graph if plain else self._variant(arguments)), arguments

    def generate(
        self, prompt_ids: Tensor, attention_mask: Tensor | None = None, **arguments: Any
    ) -> Any:
        """Generates as ``starquant_fx.generate`` does, with this model."""
        return generate(self, prompt_ids, attention_mask, **arguments)

    def export_onnx(self, path: str | os.PathLike[str], **options: Any) -> ExportReport:
        """Writes the model as a folder that onnxruntime runs without PyTorch.

        Args:
            path: The folder.
            **options: As ``starquant_fx.export_onnx``: ``flavour`` (or ``flavor``), ``head``, ``opset``,
                ``attention_mask``, ``tokenizer``, ``samples``, ``sampler_defaults``, ``verify``, ``force``.

        Returns:
            What was written and found.
        """
        from starquant_fx.export.api import export_onnx

        return export_onnx(self, path, **options)

    def save(self, path: str | os.PathLike[str], **options: Any) -> Path:
        """Writes the model as a folder that ``starquant_fx.load`` reads without the original model.

        Args:
            path: The folder.
            **options: As ``starquant_fx.checkpoint.writing.save``: ``tokenizer``, ``shard_bytes``, ``force``,
                ``base_model``, ``tags``.

        Returns:
            The folder's path.
        """
        from starquant_fx.checkpoint.writing import save

        return save(self, path, **options)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by qualified name: what the passes made, and what they left of the original model."""
        return {**self._spare, **self.program.tensors()}

    @property
    def frame(self) -> nn.Module:
        """The original model without its weights: its parameters are fake tensors."""
        return self._skeleton[0]

    def structure(self, arguments: dict[str, Tensor]) -> Program:
        """The program of a kind of arguments without weights, in float32 on the CPU.

        Args:
            arguments: Tensors by argument name, ``input_ids`` first, without the token state.

        Returns:
            The rewritten program; its tensors are fake, those of ``tensors`` belong to it by name.
        """
        model = skeleton(self._skeleton[0], torch.float32, torch.device("cpu"))
        program = capture(
            model, self.recipe, mask_token_id=self.program.mask_token_id, arguments=arguments
        )
        return run_passes(program, self.recipe.passes)

    def adopt(self, program: Program) -> fx.GraphModule:
        """Makes another capture of the original model compute with this model's codes.

        Args:
            program: A fresh capture without weights; it is rewritten, not calibrated again.

        Returns:
            The lowered graph.

        Raises:
            LoweringError: The capture needs a tensor that this model does not have.
        """
        run_passes(program, self.recipe.passes)
        bind_tensors(program, self.tensors())
        return lower(program, self.report.target, self._laid)

    def _variant(self, arguments: dict[str, Tensor]) -> fx.GraphModule:
        key = capture_key(arguments)
        return _made_once(self._variants, key, lambda: self._captured(arguments))

    def _captured(self, arguments: dict[str, Tensor]) -> fx.GraphModule:
        """The lowered graph of a kind of arguments."""
        traced = {name: value for name, value in arguments.items() if name != "token_state"}
        mask_id = self.program.mask_token_id
        return self.adopt(
            capture(self._skeleton[0], self.recipe, mask_token_id=mask_id, arguments=traced)
        )


def compiled_model(value: object) -> CompiledModel:
    """Returns a compiled model, else raises an InputError."""
    if not isinstance(value, CompiledModel):
        raise InputError(
            "this is no compiled model",
            where="compiled",
            expected="what starquant_fx.compile returned",
            got=type(value).__name__,
            hint="compile the model first",
        )
    return value


def _made_once(
    kept: dict[Any, fx.GraphModule], key: Any, make: Callable[[], fx.GraphModule]
) -> fx.GraphModule:
    """What is kept under a key, made first if it is not there; calls from several threads make it once."""
    if key not in kept:
        with TRACING:
            if key not in kept:  # another thread made it meanwhile
                kept[key] = make()
    return kept[key]


def release_device_memory(program: Program, lowered: fx.GraphModule) -> None:
    """Moves what passes made and a lowered graph does not read, as it has it in another layout, off a GPU to the host.

    Packed weights are then once in the device's memory; saving and other captures read them from the host.
    """
    read = {str(node.target) for node in lowered.graph.nodes if node.op == "get_attr"}
    for name, tensor in program.tensors().items():
        if tensor.is_cuda and name.startswith(f"{CONSTANTS}.") and name not in read:
            path, _, leaf = name.rpartition(".")
            program.module.get_submodule(path).register_buffer(leaf, tensor.cpu())


def bind_tensors(program: Program, tensors: dict[str, Tensor]) -> None:
    """Gives a program that was rewritten without weights its tensors, by qualified name.

    Args:
        program: The program; its fake tensors are replaced.
        tensors: Real tensors by qualified name.

    Raises:
        LoweringError: A tensor is missing or has another shape.
    """
    for name, fake in program.tensors().items():
        if not isinstance(fake, FakeTensor):
            continue
        real = tensors.get(name)
        if real is None or real.shape != fake.shape or real.dtype != fake.dtype:
            raise LoweringError(
                "a tensor of the program cannot be bound",
                where=name,
                expected=f"{fake.dtype} {list(fake.shape)}",
                got="no tensor of this name"
                if real is None
                else f"{real.dtype} {list(real.shape)}",
                hint="compile the model again",
            )
        program.set_tensor(name, real)


def spare_tensors(model: nn.Module, program: Program) -> dict[str, Tensor]:
    """The model's tensors that the program does not read but another capture might (not the quantized weights)."""
    quantized = {name for site in program.quantized_sites() for name in site.linears}
    return spare(model, program.tensors().keys(), quantized)


def spare(model: nn.Module, held: Collection[str], quantized: Collection[str]) -> dict[str, Tensor]:
    """As ``spare_tensors``, for names of what programs hold and of the linears that they quantize."""
    return {
        name: tensor.detach()
        for name, tensor in model.named_parameters(remove_duplicate=False)
        if name not in held
        and f"{CONSTANTS}.folded.{name}" not in held
        and name.rpartition(".")[0] not in quantized
    }
