"""LLaDA and Dream as models of transformers: what ``AutoModelForMaskedLM`` and ``AutoModel`` give.

They hold one of our own models, in full precision or compiled, and add no arithmetic to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import MaskedLMOutput
from transformers.modeling_utils import PreTrainedModel

from starquant_fx.errors import InputError
from starquant_fx.integrations.hugging_face.calls import check_call
from starquant_fx.integrations.hugging_face.configuration import (
    DenoiserConfig,
    StarQuantDreamConfig,
    StarQuantLladaConfig,
)
from starquant_fx.model_facts import model_device

if TYPE_CHECKING:
    from starquant_fx.compiled import CompiledModel


class DenoiserForMaskedLM(PreTrainedModel):
    """Base of our models.

    A full-precision model has the published names of its tensors; a packed one has its low-bit graph under ``packed``.

    Args:
        config: The configuration.
        denoiser: Our own model; None builds one with random weights.

    Raises:
        ConfigError: The configuration describes no model that is implemented.
        InputError: A packed model is asked for without its checkpoint.
    """

    config_class = DenoiserConfig
    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(self, config: DenoiserConfig, denoiser: nn.Module | None = None) -> None:
        super().__init__(config)
        self._loaded = denoiser is not None
        if denoiser is None:
            denoiser = _random(config)
        self._held = [denoiser]
        self.base_model_id: str | None = None
        """Hub id of the model that was quantized while it was loaded, for the model card."""
        children = {"packed": denoiser} if self.compiled else dict(denoiser.named_children())
        for name, child in children.items():
            self.add_module(name, child)
        self.post_init()

    def init_weights(self) -> None:
        """Gives random weights to a model that was built from a configuration alone."""
        if not self._loaded:
            super().init_weights()

    @property
    def denoiser(self) -> nn.Module:
        """Our own model, in full precision or compiled; it shares its tensors with this one."""
        return self._held[0]

    starquant_denoiser = denoiser
    """Where ``starquant_fx.compile`` looks for what it compiles."""

    @property
    def compiled(self) -> CompiledModel | None:
        """The compiled model, with its report, recipe and ``export_onnx``; None in full precision."""
        model: Any = self._held[0]
        return model if hasattr(model, "program") else None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return model_device(self, torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Float type that the model computes in."""
        first = next(self.denoiser_parameters())
        return first.dtype

    def denoiser_parameters(self) -> Any:
        """The parameters of the original model; fake ones after compilation."""
        compiled = self.compiled
        return (self.denoiser if compiled is None else compiled.frame).parameters()

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Counts the parameters, after compilation those of the original model."""
        if self.compiled is None:
            return super().num_parameters(only_trainable, exclude_embeddings)
        tables = [m for m in self.compiled.frame.modules() if isinstance(m, nn.Embedding)]
        left = sum(m.weight.numel() for m in tables) if exclude_embeddings else 0
        count = sum(parameter.numel() for parameter in self.denoiser_parameters())
        return 0 if only_trainable else count - left

    def get_output_embeddings(self) -> Any:
        """Returns the LM head of a full-precision model; None after compilation."""
        model: Any = self.denoiser
        return model.get_output_embeddings() if self.compiled is None else None

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | str | None = None,
        *,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> Any:
        """Predicts the token at every position; Dream's position i predicts the token at i + 1, as published.

        Args:
            input_ids: [B, L] integer token ids.
            attention_mask: [B, L], 1 = keep; and what else the model takes.
            output_hidden_states: Also return the hidden states; in full precision only.
            return_dict: False returns a tuple.
            **options: ``attention_bias`` (LLaDA), ``position_ids`` (Dream), ``token_state``; others must be None or
                False.

        Returns:
            A ``MaskedLMOutput`` with ``logits`` [B, L, vocab].

        Raises:
            InputError: The arguments do not fit the model.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        named = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "output_hidden_states": output_hidden_states,
            **options,
        }
        given = {name: one for name, one in named.items() if one is not None and one is not False}
        if self.compiled is None:
            check_call(self.denoiser, given)
        found = self.denoiser(**given)
        output = MaskedLMOutput(logits=found.logits, hidden_states=found.hidden_states)
        wanted = self.config.return_dict if return_dict is None else return_dict
        return output if wanted else output.to_tuple()

    def generate(
        self,
        prompt_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        input_ids: Tensor | None = None,
        **arguments: Any,
    ) -> Any:
        """Generates with the model's diffusion sampler, as ``starquant_fx.generate``.

        Args:
            prompt_ids: [B, L] token ids.
            attention_mask: [B, L], 1 = keep.
            input_ids: Another name of ``prompt_ids``, for ``generate(**tokenizer(...))``.
            **arguments: As ``starquant_fx.generate``.

        Returns:
            As ``starquant_fx.generate``: token ids with the prompt.

        Raises:
            InputError: The arguments do not fit the model.
        """
        from starquant_fx.diffusion import generate

        if (prompt_ids is None) == (input_ids is None):
            raise InputError(
                "the prompt must be given once",
                where="prompt_ids",
                expected="prompt_ids, or input_ids",
                got="neither" if prompt_ids is None else "both",
                hint="model.generate(tokenizer(text, return_tensors='pt')['input_ids'])",
            )
        prompt: Any = input_ids if prompt_ids is None else prompt_ids
        return generate(self.denoiser, prompt, attention_mask, **arguments)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moves or casts a full-precision model; a compiled one belongs to one float type and one device's kernels.

        Raises:
            InputError: Another float type or device is asked of a compiled model.
        """
        if self.compiled is not None:
            own = torch.zeros((), dtype=self.dtype, device=self.device)
            asked = fn(own)
            if (asked.dtype, asked.device) != (own.dtype, own.device):
                raise InputError(
                    "a compiled model stays as it was loaded",
                    where="to",
                    expected=f"{own.dtype} on {own.device}",
                    got=f"{asked.dtype} on {asked.device}",
                    hint="from_pretrained(..., device_map=...) for another device; for another dtype, quantize the "
                    "full-precision model in that",
                )
        return super()._apply(fn, recurse)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any
    ) -> Any:
        """Loads a full-precision folder, quantized on the way if that is asked for, or a packed checkpoint.

        Args:
            pretrained_model_name_or_path: A folder, or a hub id.
            *model_args: None.
            **kwargs: See ``starquant_fx.integrations.hugging_face.loading.load``.

        Returns:
            The model in evaluation mode; with ``output_loading_info=True`` also what did not fit, which is nothing.

        Raises:
            StarQuantError: See ``starquant_fx.integrations.hugging_face.loading.load``.
        """
        from starquant_fx.integrations.hugging_face.loading import load

        return load(cls, pretrained_model_name_or_path, *model_args, **kwargs)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Writes a folder that ``from_pretrained`` and ``starquant_fx`` read, whole or not at all.

        Args:
            save_directory: The folder; its parent must exist.
            *args: ``is_main_process``: False writes nothing.
            **kwargs: See ``starquant_fx.integrations.hugging_face.saving.save``.

        Raises:
            StarQuantError: See ``starquant_fx.integrations.hugging_face.saving.save``.
        """
        from starquant_fx.integrations.hugging_face.saving import save

        save(self, save_directory, *args, **kwargs)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> str:  # type: ignore[override]
        """Uploads what ``save_pretrained`` writes, as one commit.

        Args:
            *args: ``repo_id``: where to, ``owner/name`` or ``name``.
            **kwargs: See ``starquant_fx.integrations.hugging_face.saving.push``.

        Returns:
            The address of the commit.

        Raises:
            StarQuantError: See ``starquant_fx.integrations.hugging_face.saving.push``.
        """
        from starquant_fx.integrations.hugging_face.saving import push

        return push(self, *args, **kwargs)


class StarQuantLladaForMaskedLM(DenoiserForMaskedLM):
    """LLaDA with its LM head, in full precision or compiled."""

    config_class = StarQuantLladaConfig


class StarQuantDreamForMaskedLM(DenoiserForMaskedLM):
    """Dream with its LM head, in full precision or compiled."""

    config_class = StarQuantDreamConfig


MODELS: dict[str, Any] = {
    StarQuantLladaConfig.model_type: StarQuantLladaForMaskedLM,
    StarQuantDreamConfig.model_type: StarQuantDreamForMaskedLM,
}


def _random(config: DenoiserConfig) -> nn.Module:
    """Our own model of a configuration.

    Raises:
        ConfigError: The configuration describes none.
        InputError: It is a packed checkpoint's.
    """
    from starquant_fx.models.registry import ARCHITECTURES

    if getattr(config, "quantization_config", None) is not None:
        raise InputError(
            "a packed model is not built from its configuration alone",
            where="config.quantization_config",
            expected="the configuration of a full-precision model",
            got="a packed checkpoint's",
            hint="AutoModelForMaskedLM.from_pretrained(folder) loads the checkpoint",
        )
    return ARCHITECTURES[config.model_type].model(config.published())
