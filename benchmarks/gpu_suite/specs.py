"""What is measured: models at their published sizes, token shapes, kinds of runs."""

from __future__ import annotations

import dataclasses
from typing import Any

from cpu_suite.specs import ModelSpec, Shape
from cpu_suite.weights import configuration


@dataclasses.dataclass(frozen=True)
class Form:
    """A product as the Triton target runs it, with what its kernel does besides.

    Attributes:
        name: Of the linears that are one product.
        inputs: Channels.
        rows: Outputs, before gate and up become one.
        bias: The linears have a bias.
        residual: The sum with the block's input is in the kernel.
        swiglu: The rows are those of gate and, behind them, up; the result is ``silu(gate) * up``.
    """

    name: str
    inputs: int
    rows: int
    bias: bool = False
    residual: bool = False
    swiglu: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(inputs, rows)."""
        return self.inputs, self.rows


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
    def forms(self) -> list[Form]:
        """The products of a block as the Triton target runs them: q, k and v are one, gate and up are one."""
        dream = self.family == "dream"
        return [
            Form("q+k+v", self.width, self.width + 2 * self.kv_width, bias=dream),
            Form("o", self.width, self.width, residual=True),
            Form("gate+up", self.width, 2 * self.ffn, swiglu=True),
            Form("down", self.ffn, self.width, residual=True),
        ]

    @property
    def tuned(self) -> list[tuple[int, int]]:
        """The (inputs, rows) of ``forms``, each once."""
        return list(dict.fromkeys(form.size for form in self.forms))

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
SMALL_MODELS = (
    GpuModel("llada-small", 2, 1024, 8, 3072, vocab=4096),
    GpuModel("dream-small", 2, 896, 7, 4736, vocab=4096, family="dream", kv_heads=1),
)
"""A quarter of the published widths, two layers: compiled for two targets and compared as a whole."""


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
        compared: Models whose results on two targets are compared, and the shape for that.
    """

    models: dict[str, GpuModel]
    shapes: str
    tokens: tuple[int, ...]
    square: int
    steps: int
    rotate_bytes: int
    compared: tuple[tuple[GpuModel, ...], Shape] = (SMALL_MODELS, Shape(2, 96))


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
TINY_COMPARED = tuple(dataclasses.replace(one, layers=1) for one in TINY_MODELS.values())
TINY = Workload(TINY_MODELS, "1x24,2x32", (24, 33), 64, 2, 0, (TINY_COMPARED, Shape(1, 16)))


def described(shape: Shape) -> str:
    """A shape with what a reader must know of it, for example ``1x64 (short block)``."""
    return f"{shape} (forward of a short block)" if shape.tokens <= SHORT else str(shape)
