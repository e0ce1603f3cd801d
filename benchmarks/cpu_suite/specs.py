"""What is measured: models by their sizes, and token shapes. Nothing here loads torch."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from starquant_fx.errors import InputError, nearest

RANDOM_VOCABULARY = 32_000
SHAPES = "1x32,1x128,1x512,4x512"


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A LLaDA by its sizes.

    Attributes:
        name: What it is called on the command line.
        layers: Blocks.
        width: Channels of the hidden states.
        heads: Attention heads; there are as many key-value heads.
        ffn: Channels inside the feed-forward part.
        vocab: Rows of the embedding and of the head; the last id is the mask token.
        shipped: Whether the package ships its weights; others are drawn at random.
    """

    name: str
    layers: int
    width: int
    heads: int
    ffn: int
    vocab: int = RANDOM_VOCABULARY
    shipped: bool = False

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of every linear of the blocks."""
        one = [(self.width, self.width)] * 4 + [(self.width, self.ffn)] * 2
        return [*one, (self.ffn, self.width)] * self.layers

    @property
    def products(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of every linear, the head included."""
        return [*self.linears, (self.width, self.vocab)]

    @property
    def float_bytes(self) -> int:
        """Bytes of the model in float32."""
        return 4 * (sum(i * o for i, o in self.products) + self.width * self.vocab)

    def operations(self, tokens: int, rows: int) -> int:
        """Additions and multiplications of all linears, the head for some rows; attention is not counted."""
        inside = sum(inputs * outputs for inputs, outputs in self.linears)
        return 2 * (tokens * inside + rows * self.width * self.vocab)


MODELS = {
    one.name: one
    for one in (
        ModelSpec("llada-tiny", 6, 256, 4, 640, vocab=4096, shipped=True),
        ModelSpec("dream-tiny", 6, 256, 4, 640, vocab=4096, shipped=True),
        ModelSpec("12x1024", 12, 1024, 16, 3072),
        ModelSpec("2x4096", 2, 4096, 32, 12288),
        ModelSpec("2x128", 2, 128, 2, 384, vocab=512),
    )
}
"""The shipped model, a middling one, two layers of LLaDA-8B's size, and a tiny one to try the benchmark itself with."""
MEASURED = "llada-tiny,12x1024,2x4096"


@dataclasses.dataclass(frozen=True)
class Shape:
    """Tokens of one forward.

    Attributes:
        batch: Sequences.
        length: Tokens of each.
    """

    batch: int
    length: int

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return self.batch * self.length

    @property
    def masked(self) -> int:
        """Those that are the mask token: half of every sequence."""
        return self.batch * (self.length // 2)

    def __str__(self) -> str:
        """For example ``1x512``."""
        return f"{self.batch}x{self.length}"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a variant finds its model, and how it is to run.

    Attributes:
        folder: Holds the model as ``fp32`` and ``bf16`` folders, and what preparations leave.
        spec: Its sizes.
        threads: Threads that a forward may use.
        masked: Whether what is exported gives logits of the masked tokens only, otherwise of all.
    """

    folder: Path
    spec: ModelSpec
    threads: int
    masked: bool = False


@contextlib.contextmanager
def model_folder(keep: Path | None, name: str) -> Iterator[Path]:
    """A model's folder: a temporary one, or below ``keep`` one that stays."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="starquant-cpu-") as folder:
            yield Path(folder)
    else:
        (keep / name).mkdir(parents=True, exist_ok=True)
        yield keep / name


def models(text: str) -> list[ModelSpec]:
    """The models of these names, separated by commas.

    Raises:
        InputError: There is no such model.
    """
    return [MODELS[name] for name in named(text, MODELS, "model", "--models")]


def named(text: str, known: Collection[str], what: str, option: str) -> list[str]:
    """Names separated by commas, as an option takes them.

    Args:
        text: What was given.
        known: The names that there are.
        what: What they name.
        option: Its name.

    Raises:
        InputError: One is not known.
    """
    names = text.split(",")
    for name in names:
        if name not in known:
            raise InputError(
                f"unknown {what} {name!r}",
                where=option,
                expected=", ".join(known),
                got=name,
                hint=nearest(name, known),
            )
    return names


def shapes(text: str, option: str = "--tokens") -> list[Shape]:
    """Token shapes such as ``1x128,4x512``, small ones first, because a process's peak memory only grows.

    Args:
        text: What was given.
        option: The option that it was given to.

    Raises:
        InputError: A shape is malformed.
    """
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,4})", part)
        if match is None:
            raise InputError(
                "a token shape is malformed",
                where=option,
                expected="SEQUENCESxTOKENS, such as 1x512",
                got=part,
            )
        found.append(Shape(int(match[1]), int(match[2])))
    return sorted(set(found), key=lambda shape: (shape.tokens, shape.length))
