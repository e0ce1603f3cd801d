from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from tests.tools.texts import story
from tiny_training import corpus
from tiny_training.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def documents() -> list[corpus.Document]:
    return [corpus.Document("story", "", "", None, story(i)) for i in range(200)]


@pytest.fixture(scope="module")
def tokenizer(documents: list[corpus.Document]) -> PreTrainedTokenizerFast:
    return train_tokenizer((d.text for d in documents), vocab_size=320)
