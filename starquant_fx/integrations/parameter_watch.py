"""Notices that parameters changed: a low-bit graph holds what they were when it was made, not what they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from starquant_fx.errors import StaleParametersError

WORDS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


class TensorState(NamedTuple):
    """Where a tensor lies, how often torch saw it edited, and the wrapping sum of its bits.

    The sum catches edits through ``.data``, which leave no other trace.
    """

    address: int
    version: int
    checksum: int


def tensor_states(tensors: Mapping[str, Tensor]) -> dict[str, TensorState]:
    """Takes the states of tensors, reading each once; on an accelerator with one synchronisation.

    Args:
        tensors: By name, all on one device.

    Returns:
        States by name.
    """
    if not tensors:
        return {}
    sums = torch.stack([_checksum(t) for t in tensors.values()]).tolist()
    return {
        name: TensorState(t.data_ptr(), 0 if t.is_inference() else t._version, checksum)
        for (name, t), checksum in zip(tensors.items(), sums, strict=True)
    }


def _checksum(tensor: Tensor) -> Tensor:
    """Sum of a tensor's bits as the widest integers that fit; integer sums do not depend on their order."""
    size = tensor.element_size()
    ends = tensor.numel() * size, tensor.storage_offset() * size
    width = next(w for w in WORDS if all(end % w == 0 for end in ends))
    return tensor.detach().contiguous().view(-1).view(WORDS[width]).sum(dtype=torch.int64)


class ParameterWatch:
    """Remembers the parameters and buffers of a model.

    Args:
        model: The model, as it is when the low-bit graph is made.
    """

    def __init__(self, model: nn.Module) -> None:
        self._known = tensor_states(named_tensors(model))

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Compares the model's tensors as they are now.

        Args:
            tensors: Some of the model's tensors by qualified name.

        Raises:
            StaleParametersError: One was edited or replaced.
        """
        for name, now in tensor_states(tensors).items():
            then = self._known.get(name)
            if now != then:
                raise StaleParametersError(
                    "a parameter changed after the model was compiled",
                    where=name,
                    expected="the tensor that was quantized, untouched",
                    got="another tensor"
                    if then is None or now.address != then.address
                    else "the same tensor, edited",
                    hint="call torch._dynamo.reset(); the next call compiles the model again",
                )


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a model by qualified name, tied ones under each of their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
