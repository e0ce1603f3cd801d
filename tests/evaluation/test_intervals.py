import math

import pytest
import torch

from starquant_fx.errors import InputError
from starquant_fx.evaluation import mean_interval


def test_the_interval_of_normal_values_is_the_textbook_one() -> None:
    values = torch.randn(200, generator=torch.Generator().manual_seed(0)) + 5
    interval = mean_interval(values)
    half = 1.96 * float(values.std()) / math.sqrt(200)
    assert interval.mean == pytest.approx(float(values.mean()))
    assert interval.low == pytest.approx(interval.mean - half, abs=0.05 * half)
    assert interval.high == pytest.approx(interval.mean + half, abs=0.05 * half)


def test_it_covers_the_true_mean_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    samples = torch.empty(300, 30, dtype=torch.float64).exponential_(generator=generator)
    intervals = [mean_interval(sample) for sample in samples]
    covered = sum(i.low <= 1 <= i.high for i in intervals) / len(intervals)
    assert 0.90 < covered < 0.98


def test_it_follows_skewed_values() -> None:
    values = torch.tensor([0.0] * 20 + [10.0])
    interval = mean_interval(values)
    assert interval.high - interval.mean > 1.5 * (interval.mean - interval.low)


def test_it_is_reproducible_and_takes_constants() -> None:
    values = torch.arange(10.0)
    assert mean_interval(values) == mean_interval(values)
    assert mean_interval(torch.ones(5)) == mean_interval(torch.ones(9))
    assert mean_interval(torch.ones(5)).low == mean_interval(torch.ones(5)).high == 1


def test_one_segment_has_no_interval() -> None:
    with pytest.raises(InputError, match="an interval needs more segments"):
        mean_interval(torch.ones(1))
