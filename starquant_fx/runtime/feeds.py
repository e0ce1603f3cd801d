"""From the arguments of a call to the arrays that an exported model takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from starquant_fx.errors import CheckpointError, InputError
from starquant_fx.runtime.inputs import (
    Ids,
    check_ids,
    check_length,
    check_padding,
    check_whole,
    describe,
)
from starquant_fx.runtime.metadata import Metadata

RANKS = {
    "input_ids": (2,),
    "attention_mask": (2, 4),
    "position_ids": (2,),
    "token_state": (2,),
    "rows": (1,),
}


class Feeds:
    """Checks the arguments of calls against what a model takes and fills in what they leave out.

    Args:
        metadata: Of the model.
        session: An ``onnxruntime.InferenceSession`` whose inputs are those of the metadata.

    Raises:
        CheckpointError: An input has a rank or dtype that no export has.
    """

    def __init__(self, metadata: Metadata, session: Any) -> None:
        self._metadata = metadata
        inputs = {each.name: each for each in session.get_inputs()}
        for name, each in inputs.items():
            boolean = name == "attention_mask" and len(each.shape) == 4
            dtype = "tensor(bool)" if boolean else "tensor(int64)"
            if len(each.shape) not in RANKS[name] or each.type != dtype:
                raise CheckpointError(
                    f"the model's input {name} is not that of an export",
                    where=name,
                    expected=f"{dtype} of rank {' or '.join(map(str, RANKS[name]))}",
                    got=f"{each.type} of shape {each.shape}",
                    hint="export the model again",
                )
        self._shapes = {name: each.shape for name, each in inputs.items()}

    def __call__(
        self, input_ids: Any, attention_mask: Any, position_ids: Any, token_state: Any
    ) -> dict[str, Any]:
        """Returns the arrays of a call by name, without rows; the arguments are those of ``OnnxDenoiser``.

        Raises:
            InputError: An argument does not fit.
        """
        metadata = self._metadata
        ids = check_ids(input_ids, metadata.vocab_size, "input_ids")
        check_length(ids.shape[1], metadata.max_length, "input_ids")
        feeds: dict[str, Any] = {"input_ids": ids}
        mask = self._mask(attention_mask, ids)
        if mask is not None:
            feeds["attention_mask"] = mask
        positions = self._positions(position_ids, ids)
        if positions is not None:
            feeds["position_ids"] = positions
        if "token_state" in self._shapes:
            meaning = "1 = masked, 0 = not"
            feeds["token_state"] = check_whole("token_state", token_state, ids.shape, 2, meaning)
        elif token_state is not None:
            raise _not_taken(
                "token_state", "leave it out: the model sees its [MASK] tokens by itself"
            )
        for name, value in feeds.items():
            self._check_fixed(name, value)
        return feeds

    def _mask(self, value: Any, ids: Ids) -> NDArray[Any] | None:
        batch, length = ids.shape
        shape = self._shapes.get("attention_mask")
        if shape is None:
            if value is not None and not _keeps_all(value, ids):
                hint = "export with a mask, or call it with rows of one length without padding"
                raise _not_taken("attention_mask", hint)
            return None
        if len(shape) == 2:
            if value is None:
                return np.ones_like(ids)
            return check_padding(value, ids.shape).astype(np.int64)
        if value is None:
            return np.ones((batch, 1, length, length), bool)
        wanted = (batch, 1, length, length)
        if not isinstance(value, np.ndarray) or value.shape != wanted or value.dtype != np.bool_:
            raise InputError(
                "the attention mask does not fit the model",
                where="attention_mask",
                expected=f"a bool array of shape {list(wanted)}, true where both columns are kept",
                got=describe(value),
                hint="keep[:, None, :, None] & keep[:, None, None, :]; generate(...) makes it of a mask [B, L]",
            )
        return value

    def _positions(self, value: Any, ids: Ids) -> Ids | None:
        plain = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        if "position_ids" not in self._shapes:
            if value is not None and not np.array_equal(value, plain):
                raise _not_taken("position_ids", "export with a mask, or leave them out")
            return None
        if value is None:
            return plain.astype(np.int64)
        limit = self._metadata.max_length or ids.shape[1]
        return check_whole("position_ids", value, ids.shape, limit, "places in the sequence")

    def _check_fixed(self, name: str, value: NDArray[Any]) -> None:
        """Refuses a size that the export fixed to another one."""
        shape = self._shapes[name]
        if any(isinstance(w, int) and w != g for w, g in zip(shape, value.shape, strict=True)):
            raise InputError(
                "the model was exported for another shape",
                where=name,
                expected=str(list(shape)),
                got=str(list(value.shape)),
                hint="call it with that shape, or export it with dynamic sizes",
            )


def _keeps_all(value: Any, ids: Ids) -> bool:
    """Whether a mask, [B, L] or [B, 1, L, L], pads nothing; an InputError if it is none."""
    batch, length = ids.shape
    whole = isinstance(value, np.ndarray) and value.shape == (batch, 1, length, length)
    return bool(check_padding(value, value.shape if whole else ids.shape).all())


def _not_taken(name: str, hint: str) -> InputError:
    return InputError(
        f"this export takes no {name}",
        where=name,
        expected="None",
        got=f"an array that says something ({name})",
        hint=hint,
    )
