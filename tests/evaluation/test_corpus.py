import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from starquant_fx.errors import InputError
from starquant_fx.evaluation import read_corpus, read_texts

ROWS = ["", " = Title = \n", "naïve “text” \u2028 here"]
LINES = "".join(json.dumps({"text": row, "n": i}) + "\n" for i, row in enumerate(ROWS))


@pytest.mark.parametrize(
    ("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)]
)
def test_text_and_rows_are_read_however_they_are_packed(
    tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    rows, text = tmp_path / f"a.jsonl{suffix}", tmp_path / f"b.txt{suffix}"
    rows.write_bytes(pack(LINES.encode()))
    text.write_bytes(pack("one\ntwo ü\n".encode()))
    assert read_corpus(rows) == "\n\n".join(ROWS)
    assert read_corpus(text) == "one\ntwo ü\n"


def test_rows_of_winogrande_are_sentences_with_the_right_option(tmp_path: Path) -> None:
    row = {
        "sentence": "The cup beat _ .",
        "option1": "the jug",
        "option2": "the pan",
        "answer": "2",
    }
    path = tmp_path / "train.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(row) + "\n").encode() + b'{"text": "x"}\n'))
    assert read_texts(path) == ["The cup beat the pan .", "x"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "the text is empty"),
        ("a.txt", b" \n\t\n", "the text is empty"),
        ("a.jsonl", b'{"text": ""}\n', "the text is empty"),
        ("a.txt", b"\xff\xfe", "cannot be read"),
        ("a.txt.xz", b"no archive", "cannot be read"),
        ("a.txt.gz", b"no archive", "cannot be read"),
        ("a.txt.xz", lzma.compress(b"cut off" * 99)[:-30], "cannot be read"),
        ("a.txt.gz", gzip.compress(b"cut off" * 99, mtime=0)[:-12], "cannot be read"),
        ("a.txt.gz", gzip.compress(b"flipped", mtime=0)[:10] + b"\xff" * 20, "cannot be read"),
        ("a.jsonl", b'{"text": "a"}\n{"sentence": "b"}\n', "a row holds no text\n.*line 2"),
        ("a.jsonl", b'{"text": "a"}\n{"text":\n', "a row holds no text\n.*line 2"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "a row holds no text\n.*line 1"),
        ("a.jsonl", b'["text"]\n', "a row holds no text\n.*line 1"),
    ],
)
def test_unusable_files_are_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_corpus(path)


def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.txt", tmp_path / "nowhere.jsonl.xz", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_corpus(path)
