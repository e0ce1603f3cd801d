"""A lossless byte-level BPE tokenizer of the small models' own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCAB_SIZE = 4096  # a multiple of 64, the special tokens included
EOS, PAD, BOS, MASK = "<|endoftext|>", "<|pad|>", "<|startoftext|>", "<|mask|>"
SPECIAL_TOKENS = (EOS, PAD, BOS, MASK)

# Words with their leading blank, contractions apart, digits one by one, line ends apart: line ends
# glued to words would cost vocabulary and say nothing.
_WORDS = r"'(?:s|t|re|ve|m|ll|d)\b| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\n+|[^\S\n]+"


def train_tokenizer(texts: Iterable[str], vocab_size: int = VOCAB_SIZE) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer; decoding gives every text back byte for byte.

    Args:
        texts: Training texts.
        vocab_size: Number of tokens, the four special ones included (they come last).

    Returns:
        A transformers fast tokenizer with eos, pad, bos and mask tokens that adds no special token
        by itself.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # Added by hand, so that the ids are the last ones and a small training text still gets them.
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        bos_token=BOS,
        mask_token=MASK,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Loads a tokenizer that was saved with ``save_pretrained``."""
    return PreTrainedTokenizerFast.from_pretrained(folder)
