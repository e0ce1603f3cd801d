"""A model that was exported to ONNX, to be called with arrays."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starquant_fx.errors import InputError
from starquant_fx.runtime.feeds import Feeds
from starquant_fx.runtime.generation import generate
from starquant_fx.runtime.inputs import Ids, check_ids, check_whole
from starquant_fx.runtime.metadata import Metadata
from starquant_fx.runtime.session import run
from starquant_fx.runtime.stepping import StepCallback, greedy
from starquant_fx.runtime.text import check_text, read_tokenizer

Floats = NDArray[np.float32]


class OnnxDenoiser:
    """A denoiser that onnxruntime runs; ``load`` makes one.

    The arguments of its calls: ``input_ids`` [B, L] integers; ``attention_mask`` as the model was exported, [B, L]
    with 1 = keep for LLaDA and bool [B, 1, L, L] for Dream, None = nothing is padded; ``position_ids`` [B, L] integers
    (Dream, under padding); ``token_state`` [B, L] integers, 1 = masked, for a model without a [MASK] id.

    Attributes:
        folder: The exported folder.
        metadata: What ``starquant.json`` says.
        config: The same under the names of a model's configuration; the samplers read it.
        session: The ``onnxruntime.InferenceSession``.
    """

    def __init__(self, folder: Path, metadata: Metadata, session: Any) -> None:
        self.folder = folder
        self.metadata = metadata
        self.config = metadata.config
        self.session = session
        self._feeds = Feeds(metadata, session)

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        position_ids: Any = None,
        token_state: Any = None,
    ) -> Floats:
        """Computes the logits of all positions.

        Returns:
            [B, L, vocab] float32.

        Raises:
            InputError: The arguments do not fit, or the model returns tokens only.
            StarQuantError: onnxruntime failed.
        """
        if self.metadata.head == "logits":
            feeds = self._feeds(input_ids, attention_mask, position_ids, token_state)
            logits: Floats = run(self.session, ["logits"], feeds)[0]
            return logits
        ids = check_ids(input_ids, self.metadata.vocab_size, "input_ids")
        rows = np.arange(ids.size)
        logits = self.logits_at(rows, ids, attention_mask, position_ids, token_state)
        return logits.reshape(*ids.shape, -1)

    def logits_at(
        self,
        rows: Any,
        input_ids: Any,
        attention_mask: Any = None,
        position_ids: Any = None,
        token_state: Any = None,
    ) -> Floats:
        """Computes logits at some positions, and no others if the model was exported with rows.

        Args:
            rows: [R] integers, positions in the flattened [B L].
            input_ids: See the class, as the others.
            attention_mask: See there.
            position_ids: See there.
            token_state: See there.

        Returns:
            [R, vocab] float32.

        Raises:
            InputError: The arguments do not fit, or the model returns tokens only.
            StarQuantError: onnxruntime failed.
        """
        self._need_logits()
        feeds = self._feeds(input_ids, attention_mask, position_ids, token_state)
        rows = self._rows(rows, feeds)
        if not len(rows):
            return np.zeros((0, self.metadata.vocab_size), np.float32)
        if self.metadata.head == "row-logits":
            feeds["rows"] = rows
            logits: Floats = run(self.session, ["logits"], feeds)[0]
            return logits
        everywhere: Floats = run(self.session, ["logits"], feeds)[0]
        return everywhere.reshape(-1, everywhere.shape[-1])[rows]

    def greedy_at(
        self,
        rows: Any,
        input_ids: Any,
        attention_mask: Any = None,
        position_ids: Any = None,
        token_state: Any = None,
    ) -> tuple[Ids, Floats]:
        """The most probable token at some positions and its probability; the arguments are those of ``logits_at``.

        Returns:
            Tokens [R] int64 and probabilities [R] float32. Of equal logits the first is taken.

        Raises:
            InputError: The arguments do not fit.
            StarQuantError: onnxruntime failed.
        """
        if self.gives_logits:
            logits = self.logits_at(rows, input_ids, attention_mask, position_ids, token_state)
            return greedy(logits, by_probability=False)
        feeds = self._feeds(input_ids, attention_mask, position_ids, token_state)
        feeds["rows"] = self._rows(rows, feeds)
        if not len(feeds["rows"]):
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        tokens, confidence = run(self.session, ["token", "confidence"], feeds)
        return tokens, confidence

    def generate(
        self,
        prompt: str | Ids,
        attention_mask: Any = None,
        *,
        seed: int | None = None,
        on_step: StepCallback | None = None,
        **arguments: Any,
    ) -> Ids:
        """Completes prompts by denoising, with the sampler of the model: LLaDA's or Dream's.

        Args:
            prompt: A text, or [B, L] token ids.
            attention_mask: [B, L], 1 = keep, 0 = padding, which belongs on the left; for ids only.
            seed: Of every draw; None = another run each time.
            on_step: Called after every step with (step, total, ids, confidence).
            **arguments: The sampler's, by their published names; see ``llada_generate`` and ``dream_generate`` of
                ``starquant_fx.runtime``. The export's own defaults stand behind them.

        Returns:
            [B, L_total] int64 ids, prompt included; ``decode`` makes text of them.

        Raises:
            InputError: An argument is unknown or does not fit; nothing was generated.
        """
        return generate(self, prompt, attention_mask, seed=seed, on_step=on_step, **arguments)

    @property
    def gives_logits(self) -> bool:
        """Whether the model returns logits; one that returns tokens can be used for greedy generation only."""
        return self.metadata.head != "tokens"

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The ``tokenizers.Tokenizer`` of the export; an InputError if it has none."""
        return read_tokenizer(self.folder)

    def encode(self, text: str) -> Ids:
        """Token ids [1, L] of a text, without special tokens around it; an InputError if it is no text."""
        ids = self.tokenizer.encode(check_text(text), add_special_tokens=False).ids
        return np.array([ids], np.int64)

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The text of token ids [L], or of [1, L], without special tokens; an InputError if they are none.

        Of no ids it is the empty text.
        """
        try:
            flat = np.asarray(ids)
        except ValueError:  # rows of several lengths
            flat = np.empty(len(ids), object)
        if flat.ndim == 2 and len(flat) == 1:
            flat = flat[0]
        if flat.shape == (0,):
            flat = flat.astype(np.int64)  # numpy takes an empty list for one of floats
        flat = check_whole("ids", flat, (-1,), self.metadata.vocab_size, "the ids of one text")
        return str(self.tokenizer.decode(flat.tolist(), skip_special_tokens=True))

    def _rows(self, rows: Any, feeds: dict[str, Any]) -> Ids:
        limit = feeds["input_ids"].size
        return check_whole("rows", rows, (-1,), limit, "positions in the flattened [B L]")

    def _need_logits(self) -> None:
        if not self.gives_logits:
            raise InputError(
                "this export returns tokens, no logits",
                where=str(self.folder),
                expected="the head logits or row-logits",
                got="the head tokens",
                hint="call greedy_at(rows, input_ids, ...), or export with another head",
            )
