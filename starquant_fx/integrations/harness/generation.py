"""``generate_until`` by diffusion: which arguments, which batches, where the text ends."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from starquant_fx.diffusion import generate
from starquant_fx.errors import InputError
from starquant_fx.integrations.harness.likelihood import Work
from starquant_fx.integrations.harness.requests import Fitting
from starquant_fx.model_facts import is_shifted, model_device
from starquant_fx.progress import track

DEFAULT_NEW_TOKENS = 256
# The harness's own arguments, which are no sampler's.
HARNESS_ARGUMENTS = ("until", "max_gen_toks", "do_sample", "gen_length", "steps", "block_length")


@dataclasses.dataclass(frozen=True)
class Generator:
    """Generates texts with the model's published sampler.

    Attributes:
        model: The denoiser.
        tokenizer: A transformers tokenizer.
        fitting: Cuts prompts and counts the cuts.
        batch_size: Prompts a forward pass.
        padding: Whether prompts of different lengths may share a batch, padded on the left.
        gen_length: New tokens; None = the task's ``max_gen_toks``, else 256.
        steps: Denoising steps; None = one a token.
        block_length: Tokens of a block (LLaDA only); None = all in one block.
        cfg_scale: Strength of classifier-free guidance (LLaDA only).
        seed: Seed of every batch's draws.
    """

    model: Callable[..., Any]
    tokenizer: Any
    fitting: Fitting
    batch_size: int = 8
    padding: bool = True
    gen_length: int | None = None
    steps: int | None = None
    block_length: int | None = None
    cfg_scale: float = 0.0
    seed: int = 0

    def generate(
        self, prompts: Sequence[list[int]], options: Sequence[dict[str, Any]]
    ) -> Iterator[tuple[int, str]]:
        """Yields (index of the prompt, text); prompts of about equal length together.

        Args:
            prompts: Token ids of each request.
            options: The harness's generation arguments of each request; those named as the sampler's win over the
                attributes.

        Raises:
            InputError: An argument does not fit, or a text cannot be that long.
        """
        arguments = [self.arguments(option) for option in options]
        fitted = [
            self.fitting.prompt(p, self.new_tokens(a))
            for p, a in zip(prompts, arguments, strict=True)
        ]
        batches = self._batches(fitted, [json.dumps(a, sort_keys=True) for a in arguments])
        for batch in track(batches, "generating", len(batches)):
            texts = self._texts([fitted[i] for i in batch], arguments[batch[0]])
            for index, text in zip(batch, texts, strict=True):
                yield index, cut(text, until_strings(options[index]))

    def arguments(self, option: dict[str, Any]) -> dict[str, Any]:
        """Returns the sampler's arguments for a request's.

        Raises:
            InputError: As many new tokens leave no room for a prompt.
        """
        length = option.get("gen_length", self.gen_length)
        length = option.get("max_gen_toks", DEFAULT_NEW_TOKENS) if length is None else length
        steps = option.get("steps", self.steps)
        own = {k: v for k, v in option.items() if k not in HARNESS_ARGUMENTS}
        if not option.get("do_sample", own.get("temperature", 0.0) > 0):
            own["temperature"] = 0.0
        longest = self.fitting.longest
        if longest is not None and length >= longest:
            raise InputError(
                "the text to generate does not fit the model",
                where="gen_length",
                expected=f"at most {longest - 1} new tokens, beside one of context",
                got=f"{length} tokens, as the task or the caller asks",
                hint="give a smaller gen_length (--gen-length)",
            )
        own = ({"cfg_scale": self.cfg_scale} if self.cfg_scale else {}) | own
        if is_shifted(self.model):
            return {"max_new_tokens": length, "steps": steps or length, "alg": "entropy"} | own
        block = option.get("block_length", self.block_length) or length
        return {"gen_length": length, "steps": steps or length, "block_length": block} | own

    def new_tokens(self, arguments: dict[str, Any]) -> int:
        """Number of new tokens in a sampler's arguments."""
        return int(arguments["max_new_tokens" if is_shifted(self.model) else "gen_length"])

    def work(self, prompts: Sequence[list[int]], options: Sequence[dict[str, Any]]) -> Work:
        """Counts rows and tokens of all denoising steps."""
        rows = tokens = 0
        for prompt, option in zip(prompts, options, strict=True):
            arguments = self.arguments(option)
            length, longest = len(prompt) + self.new_tokens(arguments), self.fitting.longest
            rows += arguments["steps"]
            tokens += arguments["steps"] * (length if longest is None else min(length, longest))
        return Work(rows, tokens)

    def _batches(self, prompts: list[list[int]], kinds: list[str]) -> list[list[int]]:
        """Groups indices by arguments and, longest first, by length."""
        batches: list[list[int]] = []
        for index in sorted(range(len(prompts)), key=lambda i: (kinds[i], -len(prompts[i]), i)):
            first = batches[-1][0] if batches else index
            same = kinds[first] == kinds[index]
            if not self.padding:
                same = same and len(prompts[first]) == len(prompts[index])
            if batches and same and len(batches[-1]) < self.batch_size:
                batches[-1].append(index)
            else:
                batches.append([index])
        return batches

    def _texts(self, prompts: list[list[int]], arguments: dict[str, Any]) -> list[str]:
        longest = max(map(len, prompts))
        ids = torch.full((len(prompts), longest), prompts[0][-1])
        keep = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            keep[row, longest - len(prompt) :] = 1
        draws = torch.Generator(model_device(self.model, ids.device)).manual_seed(self.seed)
        mask = None if bool(keep.all()) else keep
        out = generate(self.model, ids, mask, progress=False, generator=draws, **arguments)
        return [self._decode(row) for row in out[:, longest:].tolist()]

    def _decode(self, ids: list[int]) -> str:
        """Text up to the first end token, special tokens included: a task may stop at one of them."""
        config = getattr(self.model, "config", None)
        names = ("eos_token_id", "eot_token_id")
        ends = {getattr(owner, name, None) for owner in (self.tokenizer, config) for name in names}
        stop = next((i for i, token in enumerate(ids) if token in ends), len(ids))
        return str(self.tokenizer.decode(ids[:stop], skip_special_tokens=False))


def until_strings(option: dict[str, Any]) -> list[str]:
    """The strings that end a request's text."""
    until = option.get("until") or []
    return [until] if isinstance(until, str) else [str(text) for text in until]


def cut(text: str, until: Sequence[str]) -> str:
    """The text before the first of the strings."""
    ends = [text.find(end) for end in until if end]
    return text[: min((end for end in ends if end >= 0), default=len(text))]
