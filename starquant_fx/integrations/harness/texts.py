"""What the harness asks of a tokenizer."""

from __future__ import annotations

import dataclasses
from typing import Any

from starquant_fx.errors import InputError


@dataclasses.dataclass(frozen=True)
class Texts:
    """A transformers tokenizer, with refusals that say what is missing.

    Attributes:
        tokenizer: The tokenizer.
    """

    tokenizer: Any

    def ids(self, text: str) -> list[int]:
        """Token ids, without special tokens around them."""
        # verbose=False: a text longer than the model is cut later, and counted.
        found = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return [int(token) for token in found]

    def some_ids(self, text: str, what: str) -> list[int]:
        """Token ids, at least one; raises an InputError that says what is empty."""
        found = self.ids(text)
        if not found:
            raise InputError(f"{what} is empty", where="requests", expected="some text", got="none")
        return found

    def special(self, *names: str) -> int:
        """Id of the first special token that the tokenizer has.

        Raises:
            InputError: It has none of them.
        """
        for name in names:
            found = getattr(self.tokenizer, name, None)
            if isinstance(found, int):
                return found
        raise InputError(
            "a context is empty, and the tokenizer has no token to stand for it",
            where="requests",
            expected=f"a context, or a tokenizer with {' or '.join(names)}",
            got="neither",
        )

    def without_specials(self, text: str) -> str:
        """The text without the spelling of special tokens."""
        for special in self.tokenizer.all_special_tokens:
            text = text.replace(special, "")
        return text

    def require_chat_template(self) -> None:
        """Raises an InputError if the tokenizer has no chat template."""
        if not getattr(self.tokenizer, "chat_template", None):
            raise InputError(
                "the tokenizer has no chat template",
                where="apply_chat_template",
                expected="a tokenizer of an instruction-tuned model",
                got="none",
                hint="leave the chat template out, or set tokenizer.chat_template",
            )

    def conversation(self, turns: list[dict[str, str]], *, answer_next: bool) -> str:
        """Renders a conversation.

        Args:
            turns: Messages with "role" and "content".
            answer_next: End with the header of the model's answer; else the last turn is its beginning.

        Raises:
            InputError: The tokenizer has no chat template.
        """
        self.require_chat_template()
        text: str = self.tokenizer.apply_chat_template(
            turns,
            tokenize=False,
            add_generation_prompt=answer_next,
            continue_final_message=not answer_next,
        )
        return text
