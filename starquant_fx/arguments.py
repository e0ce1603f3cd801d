"""Binds a call of the model to the tensor arguments a capture is made for."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from starquant_fx.errors import InputError
from starquant_fx.mapped import not_finite
from starquant_fx.model_facts import check_ids, check_padding, maximum_length

CaptureKey = tuple[tuple[Any, ...], ...]
"""What distinguishes captures: name, rank, dtype and broadcast dimensions of each argument."""


def bind(
    signature: inspect.Signature, model: object, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Tensor]:
    """Returns the tensor arguments of a call by name, ``input_ids`` first.

    All-ones padding masks (on the CPU) and Dream's ``"full"`` are dropped: they change nothing.

    Args:
        signature: Of the original model's forward.
        model: Its ``config`` says vocabulary and maximum length.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.

    Returns:
        Tensors by argument name.

    Raises:
        InputError: Unknown arguments, options that a compiled model does not have, ids or lengths out of range.
    """
    kwargs = dict(kwargs)
    state = kwargs.pop("token_state", None)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise InputError(
            "the arguments do not fit the model",
            where="forward",
            expected=str(signature),
            got=str(error),
            hint="call it as the original model is called",
        ) from error
    given = dict(bound.arguments)
    given.update(given.pop("kwargs", {}))
    tensors: dict[str, Tensor] = {}
    for name, value in given.items():
        if isinstance(value, Tensor):
            tensors[name] = value
        elif (
            value is not None
            and value is not False
            and not (name == "attention_mask" and value == "full")
        ):
            if name == "return_dict" and value is True:
                continue
            raise InputError(
                "a compiled model returns logits only",
                where=name,
                expected="None or False",
                got=repr(value),
                hint="ask the original model for anything else",
            )
    ids = tensors.pop("input_ids", None)
    if ids is None:
        raise InputError(
            "the call has no token ids",
            where="input_ids",
            expected="an integer tensor [B, L]",
            got="none",
            hint="input_ids=tokenizer(text, return_tensors='pt')['input_ids']",
        )
    _check(ids, model)
    mask = tensors.get("attention_mask")
    # Elsewhere than on the CPU a look at values would make the host wait for the device, at every call.
    if mask is not None and mask.dim() == 2 and mask.device.type == "cpu":
        check_padding(mask)
        # Not while torch.compile traces, which cannot decide by values.
        if not torch.compiler.is_compiling() and bool(mask.all()):
            del tensors["attention_mask"]
    for name, value in tensors.items():
        _check_shape(name, value, ids)
    if state is not None:
        tensors["token_state"] = _checked_state(state, ids)
    return {"input_ids": ids, **tensors}


def _check_shape(name: str, value: Tensor, ids: Tensor) -> None:
    """Masks and positions must fit the ids: [B or 1, L], or [..., L] with rank 4."""
    batch, length = ids.shape
    shape = list(value.shape)
    if value.dim() == 4:
        fits = shape[0] in (1, batch) and shape[2] in (1, length) and shape[3] == length
    else:
        fits = shape in ([batch, length], [1, length])
    if not fits:
        raise InputError(
            "an argument does not fit the ids",
            where=name,
            expected=f"[{batch}, {length}] or [{batch}, 1, {length}, {length}]",
            got=str(shape),
            hint="input_ids and masks are [B, L], rows of one length",
        )


def _checked_state(state: Any, ids: Tensor) -> Tensor:
    """Returns a token state as int64 after checking its shape and values."""
    good = isinstance(state, Tensor) and state.shape == ids.shape and not state.is_floating_point()
    seen = good and state.device.type == "cpu"
    if not good or (seen and bool(((state != 0) & (state != 1)).any())):
        raise InputError(
            "the token state does not fit the ids",
            where="token_state",
            expected=f"integers [{ids.shape[0]}, {ids.shape[1]}], 1 = masked, 0 = unmasked",
            got=f"{state.dtype} {list(state.shape)}" if isinstance(state, Tensor) else repr(state),
            hint="token_state = is_masked.long()",
        )
    return state.long()


def _check(ids: Tensor, model: object) -> None:
    if ids.dim() != 2:
        raise InputError(
            "the ids have a wrong rank",
            where="input_ids",
            expected="[B, L]",
            got=str(list(ids.shape)),
            hint="one sequence is a batch of one: input_ids.unsqueeze(0)",
        )
    longest = maximum_length(model)
    if longest is not None and ids.shape[1] > longest:
        raise InputError(
            "the sequence is longer than the model's maximum",
            where="input_ids",
            expected=f"at most {longest} tokens",
            got=f"{ids.shape[1]} tokens",
            hint="cut the text, or split it into segments",
        )
    if ids.device.type == "cpu":
        check_ids(ids, model, "input_ids")


def capture_key(arguments: dict[str, Tensor]) -> CaptureKey:
    """Key of the capture that serves these arguments."""
    return tuple(
        (
            name,
            t.dim(),
            t.dtype,
            *(size == 1 for size in t.shape if t.dim() == 4 or name == "position_ids"),
        )
        for name, t in arguments.items()
    )


def call_signature(model: nn.Module) -> inspect.Signature:
    """Signature of a model's forward."""
    return inspect.signature(model.forward)


def check_parameters(model: nn.Module) -> None:
    """Raises an InputError that names the first parameter holding NaN or Inf."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and (bad := not_finite(parameter)):
            raise InputError(
                "the model's weights are not finite",
                where=name,
                expected="finite numbers",
                got=f"{bad} NaN or Inf",
                hint="the checkpoint is damaged or was saved after a diverged training",
            )
