"""A tokenizer of words for the tiny denoisers, and files of the nine tasks with a few rows each."""

from __future__ import annotations

import csv
import functools
import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.small_models import MASK, VOCABULARY


@functools.cache
def tokenizer(kind: str = "llada", **special: str | None) -> PreTrainedTokenizerFast:
    """Words ``w2`` to ``w<n>`` at their numbers, anything else is ``w2``; 0 ends a text, 1 begins one."""
    words = {f"w{i}": i for i in range(2, VOCABULARY[kind])}
    words |= {"</s>": 0, "<s>": 1, "<mask>": MASK[kind]}
    core = Tokenizer(models.WordLevel(words, unk_token="w2"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens: dict[str, Any] = {
        "mask_token": "<mask>",
        "eos_token": "</s>",
        "bos_token": "<s>",
    } | special
    return PreTrainedTokenizerFast(tokenizer_object=core, **tokens)


def words(ids: Iterable[int]) -> str:
    """The text of some ids."""
    return " ".join(f"w{i}" for i in ids)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes rows as JSON lines, compressed where the name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        with gzip.open(path, "wt", encoding="utf-8") as stream:
            stream.write(text)
    else:
        path.write_text(text, encoding="utf-8")


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes rows as CSV with a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def write_nine(folder: Path) -> None:
    """Writes the files of all nine tasks; MMLU and C-Eval with one subject, anatomy and law."""
    choices = {"text": ["w5 w6", "w7"], "label": ["A", "B"]}
    arc = {"question": "w3 w4", "choices": choices, "answerKey": "B"}
    write_jsonl(folder / "arc_challenge/test.jsonl.gz", [arc] * 3)
    write_jsonl(folder / "arc_challenge/train.jsonl", [arc | {"question": f"w9{i}"} for i in "123"])
    targets = {"choices": ["w5", "w6 w7", "w8"], "labels": [1, 1, 0]}
    truth = {"question": "w3", "mc1_targets": targets, "mc2_targets": targets}
    write_jsonl(folder / "truthfulqa/multiple_choice_hf.jsonl.gz", [truth] * 2)
    swag = {"activity_label": "w3", "ctx_a": "w4 w5.", "ctx_b": "he", "endings": ["w6", "w7", "w8"]}
    write_jsonl(folder / "hellaswag/validation.jsonl", [swag | {"label": "2"}] * 2)
    done = {"query": "w30", "choices": ["w31", "w32"], "gold": 1}
    write_jsonl(folder / "hellaswag/train_processed.jsonl", [done] * 3)
    grande = {"sentence": "w3 _ w4 w5", "option1": "w6", "option2": "w7", "answer": "2"}
    write_jsonl(folder / "winogrande/validation.jsonl", [grande] * 2)
    write_jsonl(folder / "winogrande/train_xl.jsonl", [grande] * 6)
    piqa = {"goal": "w3", "sol1": "w4 w5", "sol2": "w6", "label": 0}
    write_jsonl(folder / "piqa/validation.jsonl", [piqa] * 2)
    anatomy = {"question": "w3", "subject": "anatomy", "choices": list("abcd"), "answer": 2}
    other = anatomy | {"question": "w99", "subject": "astronomy"}
    write_jsonl(folder / "mmlu/test.jsonl", [other, anatomy, anatomy])
    write_jsonl(folder / "mmlu/dev.jsonl", [other] * 5 + [anatomy | {"question": "w50"}] * 5)
    law = {"id": 0, "question": "w3", "A": "a", "B": "b", "C": "c", "D": "d", "answer": "C"}
    write_csv(folder / "ceval/val/law_val.csv", [law] * 2)
    write_csv(folder / "ceval/dev/law_dev.csv", [law | {"explanation": "w1"}] * 5)
    sums = {"question": "w3 w4", "answer": "w5 #### 12"}
    write_jsonl(folder / "gsm8k/test.jsonl", [sums] * 2)
    write_jsonl(folder / "gsm8k/train.jsonl", [sums] * 4)
    program = {"prompt": "def one():\n", "entry_point": "one", "test": "def check(f): assert f()"}
    write_jsonl(folder / "humaneval/test.jsonl", [program] * 2)


NINE = (
    *("truthfulqa_mc2", "arc_challenge", "hellaswag", "winogrande", "piqa", "mmlu_anatomy"),
    *("ceval-valid_law", "gsm8k", "humaneval"),
)
"""The nine, MMLU and C-Eval by the subject that ``write_nine`` writes."""
