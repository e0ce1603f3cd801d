"""What is measured: models at their published sizes, token shapes, kinds of runs."""

from __future__ import annotations

import dataclasses
from typing import Any

from cpu_suite.specs import ModelSpec, Shape
from cpu_suite.weights import configuration

SHORT = 64
"""Forwards of no more tokens are those of short blocks, as cached decoding would run them; there is none yet."""
LLADA, DREAM = "llada-8b", "dream-7b"


@dataclasses.dataclass(frozen=True)
class GpuModel(ModelSpec):
    """A LLaDA or Dream by its sizes.

    Attributes:
        family: ``llada`` or ``dream``.
        kv_heads: Key-value heads; 0 = as many as heads.
    """

    family: str = "llada"
    kv_heads: int = 0

    @property
    def kv_width(self) -> int:
        """Outputs of the key and of the value projection."""
        return self.width // self.heads * (self.kv_heads or self.heads)

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of every linear of the blocks."""
        attention = [(self.width, self.width)] * 2 + [(self.width, self.kv_width)] * 2
        return [*attention, *[(self.width, self.ffn)] * 2, (self.ffn, self.width)] * self.layers

    @property
    def head(self) -> tuple[int, int]:
        """(inputs, outputs) of the head."""
        return self.width, self.vocab

    @property
    def tuned(self) -> list[tuple[int, int]]:
        """The (inputs, outputs) that the blocks' linears have, each once."""
        return list(dict.fromkeys(self.linears))

    @property
    def shifted(self) -> bool:
        """Whether the logits of a position predict the next token."""
        return self.family == "dream"

    def published(self) -> dict[str, Any]:
        """The published configuration keys; the mask token is the last id, which changes nothing in speed."""
        if self.family == "llada":
            return configuration(self)
        return {
            "model_type": "Dream",
            "hidden_act": "silu",
            "hidden_size": self.width,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads or self.heads,
            "vocab_size": self.vocab,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "tie_word_embeddings": False,
            "mask_token_id": self.vocab - 1,
            "eos_token_id": 1,
            "pad_token_id": 2,
        }


MODELS = {
    one.name: one
    for one in (
        GpuModel(LLADA, 32, 4096, 32, 12288, vocab=126_464),
        GpuModel(DREAM, 28, 3584, 28, 18944, vocab=152_064, family="dream", kv_heads=4),
    )
}
"""At their published sizes."""
TINY_MODELS = {
    one.name: one
    for one in (
        GpuModel("llada-tiny", 2, 128, 2, 256, vocab=192),
        GpuModel("dream-tiny", 2, 128, 4, 384, vocab=192, family="dream", kv_heads=2),
    )
}
"""To try the benchmark itself with (``--tiny``); their figures mean nothing."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """What a kind of run measures unless it is told otherwise.

    Attributes:
        models: By name.
        shapes: Token shapes, as text.
        tokens: Numbers of tokens that single kernels run on.
        square: Side of the large integer product that the ceiling is taken of.
        steps: Denoising steps of a generation.
        rotate_bytes: Operands of repeated products take at least this much together, so that no cache holds them.
    """

    models: dict[str, GpuModel]
    shapes: str
    tokens: tuple[int, ...]
    square: int
    steps: int
    rotate_bytes: int


FULL = Workload(
    MODELS,
    "1x32,1x64,1x256,1x1024,4x1024,16x1024",
    (32, 128, 256, 1024, 4096, 16384),
    8192,
    32,
    160_000_000,
)
QUICK = dataclasses.replace(
    FULL, models={LLADA: MODELS[LLADA]}, shapes="1x64,1x1024,4x1024", tokens=(64, 1024, 4096)
)
TINY = Workload(TINY_MODELS, "1x24,2x32", (24, 33), 64, 2, 0)


def described(shape: Shape) -> str:
    """A shape with what a reader must know of it, for example ``1x64 (short block)``."""
    return f"{shape} (forward of a short block)" if shape.tokens <= SHORT else str(shape)
