"""``starquant_fx.compile``: trace, rewrite, quantize, lower."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from starquant_fx.arguments import check_parameters
from starquant_fx.calibration.fit_cache import FitCache
from starquant_fx.calibration.prepare import Calibration, prepare
from starquant_fx.capture import TRACING, capture, skeleton
from starquant_fx.compiled import CompiledModel, spare_tensors
from starquant_fx.devices import making_float32, making_tensors_on, usable_device
from starquant_fx.diffusion.stepping import evaluating
from starquant_fx.errors import CaptureError, InputError
from starquant_fx.fingerprint import fingerprint
from starquant_fx.lowering import choose_target
from starquant_fx.model_facts import check_module, chosen_mask_token, model_device
from starquant_fx.pass_manager import Observer, check_observer, check_order, run_passes
from starquant_fx.program import CONSTANTS
from starquant_fx.recipe import Recipe
from starquant_fx.recipes import get_recipe
from starquant_fx.report import make_report, tensor_bytes


def compile(
    model: nn.Module,
    recipe: str | Recipe = "star-w4a4",
    *,
    calibration: Calibration = None,
    tokenizer: Any = None,
    target: str = "auto",
    device: str | torch.device | None = None,
    mask_token_id: int | None = None,
    token_state_input: bool = False,
    observe: Observer | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> CompiledModel:
    """Compiles a masked diffusion LLM to a low-bit model.

    The model itself is not changed; tensors that no pass changes (embeddings, norms, biases) are shared with it. The
    result is deterministic: the same model, recipe and calibration give the same codes.

    Args:
        model: LLaDA, Dream, or any masked LM whose forward takes ``input_ids`` [B, L] and returns logits.
        recipe: A recipe or its name, for example ``star-w4a4`` or ``rtn-w8a8``.
        calibration: Texts (with ``tokenizer``), token ids [N, L], or None: the model's own generations.
        tokenizer: For texts; also tells the mask token where the configuration does not.
        target: A target's name; ``auto`` = the fastest one that runs there.
        device: Where to calibrate, fit and run, such as ``cuda``; the model is copied there if it is elsewhere. None:
            where the model is.
        mask_token_id: Overrides the configuration's.
        token_state_input: For models without a mask token: calls take ``token_state`` [B, L] (1 = masked) as well.
        observe: Called with ``capture`` before the first pass, and after every pass with its text form; and the
            program as it then is.
        cache: Folder that keeps what is fitted, by the hash of what it is fitted from: the same compilation again, or
            one that was killed, takes from it what is there. Made if missing.

    Returns:
        A module with the model's call signature, ``.generate()``, ``.program`` and ``.report``.

    Raises:
        RecipeError: Unknown recipe, bits or options.
        CaptureError: The model cannot be traced, or nothing says which tokens are masked.
        CalibrationError: The calibration data is unusable.
        InputError: An argument is of a wrong kind, weights are not finite, or token ids are out of range.
        LoweringError: Unknown target.
        ConfigError: This machine has no such device.
    """
    with TRACING:  # other threads wait: tracing puts fake tensors in the model for a while
        chosen = get_recipe(recipe)
        model = _own(model)
        _check_arguments(model, tokenizer, token_state_input, observe)
        own = model_device(model, torch.device("cpu"))
        place = own if device is None else usable_device(device)
        resolved = choose_target(target, place)
        if own != place:
            model = copy.deepcopy(model).to(place)
        mask_id = chosen_mask_token(mask_token_id, model, tokenizer)
        if token_state_input:
            mask_id = None
        elif mask_id is None:
            raise CaptureError(
                "nothing says which tokens are masked",
                where=type(model).__name__,
                expected="config.mask_token_id, a tokenizer's mask token, mask_token_id=... or token_state_input=True",
                got="none of them",
                hint="for a model that was trained with a mask token, look its id up in its tokenizer",
            )
        check_order(chosen.passes)
        check_parameters(model)
        with evaluating(model):
            program = capture(model, chosen, mask_token_id=mask_id)
            program.cache = None if cache is None else FitCache(Path(cache))
            options = chosen.calibration
            with making_tensors_on(place), making_float32():
                program.calibration = prepare(
                    model, calibration, tokenizer, mask_id, options, program.cache
                )
            run_passes(program, chosen.passes, observe)
            twin = skeleton(model)
        before = tensor_bytes({n: p.detach() for n, p in model.named_parameters()}, CONSTANTS)
        report = make_report(program, resolved, before, tensor_bytes(program.tensors(), CONSTANTS))
        program.calibration = program.cache = None
        program.stages.clear()
        spare, found = spare_tensors(model, program), fingerprint(dict(model.named_parameters()))
        return CompiledModel(twin, program, report, spare, model, found, target)


def _own(model: nn.Module) -> nn.Module:
    """The model itself, where transformers' ``from_pretrained`` gave it another form."""
    inner = getattr(model, "starquant_denoiser", None) if isinstance(model, nn.Module) else None
    return inner if isinstance(inner, nn.Module) else model


def _check_arguments(model: Any, tokenizer: Any, token_state_input: Any, observe: Any) -> None:
    """Raises an InputError for the first argument of a kind that would fail somewhere deep inside."""
    if isinstance(check_module(model), CompiledModel):
        raise InputError(
            "the model is compiled already",
            where="model",
            expected="the full-precision model",
            got=f"one that was compiled with {model.recipe.name}",
            hint="compile the model that from_pretrained returned",
        )
    if tokenizer is not None and not (callable(tokenizer) and hasattr(tokenizer, "eos_token_id")):
        hint = "pass the second of what from_pretrained returns"
        raise _unusable("tokenizer", tokenizer, "a transformers tokenizer, or None", hint)
    if not isinstance(token_state_input, bool):
        hint = "give calls token_state=..., and compile token_state_input=True"
        raise _unusable("token_state_input", token_state_input, "True or False", hint)
    check_observer(observe)


def _unusable(name: str, got: object, expected: str, hint: str) -> InputError:
    return InputError(
        f"{name} is not usable", where=name, expected=expected, got=repr(got), hint=hint
    )
