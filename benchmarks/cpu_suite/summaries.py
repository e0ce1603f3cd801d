"""The flat summary of the rows that decide."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cpu_suite.rows import Row, quotient
from cpu_suite.variants import FULL, HALVES, HEAD8, HEADLINE, LIMIT

Summary = dict[str, float | None]


def by_threads(rows: Sequence[Row], counts: Sequence[int]) -> dict[str, object]:
    """Summaries of one model and shape.

    Args:
        rows: Of all numbers of threads.
        counts: The numbers of threads.

    Returns:
        ``summary`` of the first, and ``summary_by_threads`` of the others if there are any.
    """
    first, *others = (summary([row for row in rows if row.threads == n]) for n in counts)
    found: dict[str, object] = {"summary": first}
    if others:
        found["summary_by_threads"] = dict(zip(map(str, counts[1:]), others, strict=True))
    return found


def summary(rows: Sequence[Row]) -> Summary:
    """What decides, of one model, shape and number of threads.

    Args:
        rows: With ``star-w4a4``, fp32, bf16 and the int8 limit among them.

    Returns:
        Speed of ours as a multiple of the best bf16, fp32 and peer, its weights and peak memory as a share of bf16's,
        and its time as a multiple of what its linears, the head included, take at the int8 limit's speed; all with the
        logits of all tokens, but for the keys that begin with ``masked``. None where a row is missing.
    """
    every, masked = ([row for row in rows if row.masked == kind] for kind in (False, True))
    ours, head8 = _named(every, (HEADLINE,)), _named(every, (HEAD8,))
    halves = _named(every, HALVES)
    found = {
        **_speeds("w4a4", ours, every),
        "weights_vs_bf16": quotient(
            _smallest(row.weight_bytes for row in ours),
            _smallest(row.weight_bytes for row in halves),
        ),
        "time_vs_int8_ceiling": _time(ours, every),
        **_speeds("w4a4_int8_head", head8, every),
        "w4a4_int8_head_time_vs_int8_ceiling": _time(head8, every),
        "peak_rss_vs_bf16": quotient(
            _smallest(row.peak_bytes for row in ours), _smallest(row.peak_bytes for row in halves)
        ),
    }
    for key, name in (("masked_w4a4", HEADLINE), ("masked_w4a4_int8_head", HEAD8)):
        some = _named(masked, (name,))
        found[f"{key}_vs_bf16"] = _speed(some, _named(masked, HALVES))
        found[f"{key}_time_vs_int8_ceiling"] = _time(some, masked)
    return found


def _speeds(key: str, ours: Sequence[Row], rows: Sequence[Row]) -> Summary:
    """Speeds of ours as multiples of the fastest of each kind among some rows."""
    return {
        f"{key}_vs_bf16": _speed(ours, _named(rows, HALVES)),
        f"{key}_vs_fp32": _speed(ours, [row for row in rows if row.variant.startswith(FULL)]),
        f"{key}_vs_best_peer": _speed(ours, [row for row in rows if row.kind == "peer"]),
    }


def _fastest(rows: Iterable[Row]) -> float | None:
    return _smallest(row.median for row in rows)


def _speed(ours: Sequence[Row], others: Sequence[Row]) -> float | None:
    return quotient(_fastest(others), _fastest(ours))


def _time(ours: Sequence[Row], rows: Sequence[Row]) -> float | None:
    """Time of ours as a multiple of what its linears take at the speed of the int8 limit among some rows."""
    (limit,) = _named(rows, (LIMIT,)) or (None,)
    if not ours or limit is None or limit.median is None:
        return None
    return quotient(ours[0].median, ours[0].operations / (limit.operations / limit.median))


def _named(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    return [row for row in rows if row.variant in names]


def _smallest(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)
