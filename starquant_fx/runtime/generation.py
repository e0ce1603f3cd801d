"""``generate`` of an exported model: from a text or ids to ids, with the sampler that belongs to the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from starquant_fx.config_facts import is_shifted
from starquant_fx.errors import CheckpointError, InputError
from starquant_fx.runtime.dream import dream_generate
from starquant_fx.runtime.inputs import Ids
from starquant_fx.runtime.llada import llada_generate
from starquant_fx.runtime.stepping import StepCallback
from starquant_fx.sampling import arguments as checks

if TYPE_CHECKING:
    from starquant_fx.runtime.denoiser import OnnxDenoiser


class WithState:
    """A model without a [MASK] id, given the id that a generation uses: calls get ``token_state`` from it.

    Args:
        model: The model.
        mask_id: The id.
    """

    def __init__(self, model: OnnxDenoiser, mask_id: int) -> None:
        self._model, self._mask_id = model, mask_id
        self.config, self.gives_logits = model.config, model.gives_logits

    def __call__(self, input_ids: Ids, **given: Any) -> Any:
        """As the model."""
        return self._model(input_ids, **given, token_state=self._state(input_ids))

    def logits_at(self, rows: Ids, input_ids: Ids, **given: Any) -> Any:
        """As the model's."""
        return self._model.logits_at(rows, input_ids, **given, token_state=self._state(input_ids))

    def greedy_at(self, rows: Ids, input_ids: Ids, **given: Any) -> Any:
        """As the model's."""
        return self._model.greedy_at(rows, input_ids, **given, token_state=self._state(input_ids))

    def _state(self, input_ids: Ids) -> Ids:
        return (input_ids == self._mask_id).astype(np.int64)


def generate(
    model: OnnxDenoiser,
    prompt: str | Ids,
    attention_mask: Any = None,
    *,
    seed: int | None = None,
    on_step: StepCallback | None = None,
    **arguments: Any,
) -> Ids:
    """Completes prompts; see ``OnnxDenoiser.generate``."""
    sampler = sampler_of(model)
    own = checks.names_of(sampler)
    checks.check_names(arguments, [*own, "seed", "on_step"])
    if on_step is not None and not callable(on_step):
        raise InputError(
            "on_step is not usable",
            where="on_step",
            expected="a callable (step, total, ids, confidence)",
            got=repr(on_step),
            hint="leave the argument out to watch nothing",
        )
    if seed is not None:
        if arguments.get("generator") is not None:
            raise InputError(
                "seed and generator are both given",
                where="seed",
                expected="one of the two",
                got=f"seed={seed!r} and a generator",
                hint="numpy.random.default_rng(seed) is what a seed stands for",
            )
        arguments["generator"] = np.random.default_rng(checks.integer("seed", seed, 0))
    ids = prompt_ids(model, prompt, attention_mask)
    arguments = sampler_defaults(model, arguments) | arguments
    denoiser: Callable[..., Any] = model
    if "token_state" in model.metadata.inputs:
        name = "mask_id" if sampler is llada_generate else "mask_token_id"
        given = arguments.get(name)
        denoiser = WithState(model, checks.token_id(model, name, given, "mask_token_id"))
    return sampler(denoiser, ids, attention_mask, on_step=on_step, **arguments)


def sampler_of(model: OnnxDenoiser) -> Callable[..., Ids]:
    """The sampler that the export names; without one by the model's type, as in ``starquant_fx.generate``."""
    name = model.metadata.sampler
    dream = is_shifted(model) if name is None else name == "dream"
    return dream_generate if dream else llada_generate


def sampler_defaults(model: OnnxDenoiser, given: dict[str, Any]) -> dict[str, Any]:
    """The export's own arguments of its sampler, without a length that the caller gives in the other way.

    Raises:
        CheckpointError: The sampler has no such argument.
    """
    defaults = dict(model.metadata.sampler_defaults)
    known = [name for name in checks.names_of(sampler_of(model)) if name != "generator"]
    for name in defaults:
        if name not in known:
            raise CheckpointError(
                f"the export has a default for an unknown argument {name!r}",
                where=str(model.folder),
                expected=", ".join(known),
                got=name,
                hint="export the model again",
            )
    for one, other in (("max_length", "max_new_tokens"), ("max_new_tokens", "max_length")):
        if given.get(one) is not None:
            defaults.pop(other, None)
    return defaults


def prompt_ids(model: OnnxDenoiser, prompt: str | Ids, attention_mask: Any) -> Ids:
    """Returns ids of a prompt that is a text; anything else as it is, for the sampler to check.

    Raises:
        InputError: The text has no tokens, or comes with an attention mask.
    """
    if not isinstance(prompt, str):
        return prompt
    if attention_mask is not None:
        raise InputError(
            "a text needs no attention mask",
            where="attention_mask",
            expected="None with a text",
            got=type(attention_mask).__name__,
            hint="leave it out, or give ids [B, L] with their mask",
        )
    return model.encode(prompt)
