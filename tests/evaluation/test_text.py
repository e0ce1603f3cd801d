from typing import Any

import pytest
import torch

from starquant_fx.errors import InputError
from starquant_fx.evaluation import excerpt, segments


class Characters:
    """A token a character."""

    def encode(self, text: str, **options: Any) -> list[int]:
        assert options["add_special_tokens"] is False
        return [ord(c) - ord("a") for c in text]


@pytest.mark.parametrize("split", ["test", "validation", "calibration"])
def test_the_shipped_excerpts_are_long_enough_to_measure_with(split: str) -> None:
    text = excerpt(split)
    assert len(text) > 80_000
    assert text.isprintable() or set(c for c in text if not c.isprintable()) == {"\n"}


def test_the_splits_have_no_line_in_common() -> None:
    lines = [
        {line for line in excerpt(split).splitlines() if len(line) > 40}
        for split in ("test", "validation", "calibration")
    ]
    assert not lines[0] & lines[1]
    assert not lines[0] & lines[2]
    assert not lines[1] & lines[2]


def test_unknown_split_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match="did you mean 'validation'"):
        excerpt("validaton")


def test_segments_are_packed_in_order_and_the_rest_is_dropped() -> None:
    cut = segments("abcdefgh", Characters(), length=3)
    assert cut.dtype == torch.long
    assert cut.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_limit_spreads_the_segments_over_the_text() -> None:
    text = "aabbccddeeffgghh"
    assert segments(text, Characters(), 2, limit=4).tolist() == [[0, 0], [2, 2], [4, 4], [6, 6]]
    assert segments(text, Characters(), 2, limit=99).shape == (8, 2)


@pytest.mark.parametrize(
    ("text", "length", "limit", "what"),
    [
        ("", 4, None, "the text does not fill one segment"),
        ("abc", 4, None, "the text does not fill one segment"),
        ("abc", 0, None, "length is not usable"),
        ("abc", 1, 0, "limit is not usable"),
    ],
)
def test_unusable_text_or_numbers_are_refused(
    text: str, length: int, limit: int | None, what: str
) -> None:
    with pytest.raises(InputError, match=what):
        segments(text, Characters(), length, limit)
