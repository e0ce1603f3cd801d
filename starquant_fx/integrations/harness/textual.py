"""The half of the harness's model interface that is about text."""

from __future__ import annotations

from typing import Any

from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]

from starquant_fx.integrations.harness.texts import Texts


class TextualLM(TemplateLM):
    """What the harness asks a model about its tokenizer.

    Attributes:
        texts: The tokenizer.
    """

    texts: Texts

    @property
    def eot_token_id(self) -> int:
        """Id of the end-of-text token."""
        return self.texts.special("eos_token_id")

    @property
    def prefix_token_id(self) -> int:
        """Id of the token that stands for an empty context."""
        return self.texts.special("bos_token_id", "eos_token_id")

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer, for the harness's cache of requests."""
        return str(getattr(self.tokenizer, "name_or_path", "")).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids of a text, without special tokens around it."""
        return self.texts.ids(string)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Renders a conversation as the tokenizer's chat template says; raises an InputError without one."""
        return self.texts.conversation(chat_history, answer_next=add_generation_prompt)
