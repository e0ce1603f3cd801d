"""Where tensors are made, and random numbers that do not depend on it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from starquant_fx.errors import ConfigError, cause


def usable_device(device: torch.device | str | None) -> torch.device:
    """The device, after a first allocation on it; the CPU if None.

    Raises:
        ConfigError: This machine or this build of torch has no such device.
    """
    try:
        place = torch.device("cpu" if device is None else device)
        made = torch.zeros(1, device=place)
        made.item()  # of the device "meta" nothing can be read
        return made.device
    # Without CUDA torch raises an AssertionError, with too few GPUs a RuntimeError, and so on.
    except Exception as error:
        raise ConfigError(
            "the device is not usable",
            where="device",
            expected="a device of this machine, such as 'cpu'",
            got=f"{device!r}; {cause(error)}",
            hint="leave the argument out for the CPU",
        ) from error


def making_tensors_on(device: torch.device) -> AbstractContextManager[object]:
    """A context in which tensors are made on a device unless something else is said; it holds for one thread."""
    return contextlib.nullcontext() if device == torch.get_default_device() else device


_counting = threading.Lock()
_replaced: list[torch.dtype] = []
"""Torch's default dtype before the first of the threads that are in ``making_float32``; one entry a thread."""


@contextlib.contextmanager
def making_float32() -> Iterator[None]:
    """Floats are float32 unless something else is said. It holds for all threads, until the last one leaves it."""
    with _counting:
        _replaced.append(_replaced[0] if _replaced else torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        with _counting:
            before = _replaced.pop()
            if not _replaced:
                torch.set_default_dtype(before)


class Draws:
    """Random tensors by seed, on the device where tensors are made.

    They are drawn on the CPU, so that a seed means the same numbers on every device, except for ``choice``.

    Args:
        seed: The seed.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._generator = torch.Generator().manual_seed(seed)
        self._others: dict[torch.device, torch.Generator] = {}

    def uniform(self, *shape: int) -> Tensor:
        """Numbers in [0, 1), float32."""
        return _placed(torch.rand(shape, generator=self._generator, device="cpu"))

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, float32."""
        return _placed(torch.randn(shape, generator=self._generator, device="cpu"))

    def signs(self, *shape: int) -> Tensor:
        """Numbers +1 and -1, float32."""
        bits = torch.randint(0, 2, shape, generator=self._generator, device="cpu")
        return _placed(bits.float() * 2 - 1)

    def permutation(self, count: int) -> Tensor:
        """The numbers from 0 to ``count`` - 1 in random order, int64."""
        return _placed(torch.randperm(count, generator=self._generator, device="cpu"))

    def choice(self, weights: Tensor) -> Tensor:
        """One index a row, with the probabilities that the row's weights say.

        Args:
            weights: [N, V]; where they are on another device than the CPU, that device's own generator draws.

        Returns:
            [N] int64.
        """
        generator = self._generator
        if weights.device.type != "cpu":
            fresh = self._others.get(weights.device)
            generator = fresh or torch.Generator(weights.device).manual_seed(self._seed)
            self._others[weights.device] = generator
        return torch.multinomial(weights, 1, generator=generator).squeeze(1)


def _placed(drawn: Tensor) -> Tensor:
    return drawn.to(torch.get_default_device())
