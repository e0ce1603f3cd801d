"""Texts of the harness's requests as token ids that fit the model."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from starquant_fx.errors import InputError
from starquant_fx.model_facts import mask_token_of, maximum_length, vocabulary_size


class Pair(NamedTuple):
    """A request to score an answer.

    Attributes:
        identity: What decides the masks; the request's texts.
        prompt: Token ids, at least one.
        answer: Token ids, at least one.
    """

    identity: str
    prompt: list[int]
    answer: list[int]


@dataclasses.dataclass
class Fitting:
    """Cuts requests to the model's length and counts the cuts.

    Attributes:
        longest: Longest sequence of the model; None = any.
        mask_id: Id of [MASK], which no answer may contain.
        truncated: Requests whose prompt lost its beginning so far.
    """

    longest: int | None
    mask_id: int
    truncated: int = 0

    def request(self, encoded: Any) -> Pair:
        """As ``pair``, of an encoded request of the harness: (texts, prompt, answer)."""
        texts, prompt, answer = encoded
        return self.pair("\0".join(texts), list(prompt), list(answer))

    def pair(self, identity: str, prompt: list[int], answer: list[int]) -> Pair:
        """Returns a request whose prompt is cut on the left where it must be, as the harness does.

        Raises:
            InputError: The answer is empty, contains [MASK], or does not fit beside one token of prompt.
        """
        where = f"a request that ends in {identity[-60:]!r}"
        if not answer:
            raise InputError(
                "a continuation is empty",
                where=where,
                expected="at least one token to score",
                got="none",
                hint="check the task's doc_to_choice and doc_to_target",
            )
        if self.mask_id in answer:
            raise InputError(
                "a continuation contains the mask token, which is nothing to predict",
                where=where,
                expected=f"text without token {self.mask_id}",
                got=f"{answer.count(self.mask_id)} mask tokens",
            )
        if self.longest is not None and len(answer) >= self.longest:
            raise InputError(
                "a continuation does not fit the model",
                where=where,
                expected=f"at most {self.longest - 1} tokens, beside one of context",
                got=f"{len(answer)} tokens",
                hint="take this task to a model with a longer maximum",
            )
        return Pair(identity, self.prompt(prompt, len(answer)), answer)

    def prompt(self, prompt: list[int], new_tokens: int) -> list[int]:
        """Returns the end of a prompt that fits beside so many new tokens."""
        if self.longest is None or len(prompt) + new_tokens <= self.longest:
            return prompt
        self.truncated += 1
        return prompt[len(prompt) + new_tokens - self.longest :]


def windows(text: str, ids: list[int], prefix: int, fitting: Fitting) -> list[Pair]:
    """Cuts a text into windows of the model's length that predict each token once, given what precedes them.

    Args:
        text: The text; with the window's number it decides the masks.
        ids: Its tokens.
        prefix: The token before the first.
        fitting: Knows the model's length.
    """
    longest = fitting.longest or len(ids) + 1
    pairs = []
    for start in range(0, len(ids), longest - 1):
        answer = ids[start : start + longest - 1]
        prompt = ids[max(0, start + len(answer) - longest) : start] or [prefix]
        pairs.append(fitting.pair(f"{text}\0{start}", prompt, answer))
    return pairs


def check_tokenizer(tokenizer: Any, model: object) -> None:
    """Refuses a tokenizer that belongs to another model.

    Raises:
        InputError: There is none, its ids exceed the vocabulary, or its mask token is not the model's.
    """
    if tokenizer is None:
        raise InputError(
            "the harness needs a tokenizer",
            where="tokenizer",
            expected="tokenizer.json beside the weights, or tokenizer=...",
            got="none",
        )
    size, highest = vocabulary_size(model), max(tokenizer.get_vocab().values(), default=0)
    if size is not None and highest >= size:
        raise InputError(
            "the tokenizer does not match the model's vocabulary",
            where="tokenizer",
            expected=f"ids 0 to {size - 1}",
            got=f"ids up to {highest}",
            hint="use the tokenizer that belongs to the model",
        )
    own, models = getattr(tokenizer, "mask_token_id", None), mask_token_of(model)
    if own is not None and models is not None and own != models:
        raise InputError(
            "the tokenizer and the model have different mask tokens",
            where="tokenizer",
            expected=f"mask token {models}",
            got=str(own),
            hint="use the tokenizer that belongs to the model",
        )


def usable_mask_token(model: object, tokenizer: Any) -> int:
    """Returns the id of [MASK].

    Raises:
        InputError: Neither model nor tokenizer has one.
    """
    mask_id = mask_token_of(model, tokenizer)
    if mask_id is None:
        raise InputError(
            "nothing says which token is the mask",
            where="the model",
            expected="config.mask_token_id, or a tokenizer with a mask token",
            got="neither",
        )
    return mask_id


def usable_length(model: object, asked: int | None) -> int | None:
    """Returns the longest sequence: what the model allows, or less where less is asked for.

    Raises:
        InputError: More is asked for than the model allows, or less than two tokens.
    """
    allowed = maximum_length(model)
    if asked is None:
        return allowed
    if asked < 2 or (allowed is not None and asked > allowed):
        raise InputError(
            "max_length is not usable",
            where="max_length",
            expected="2 or more" if allowed is None else f"2 to {allowed}",
            got=str(asked),
        )
    return asked
