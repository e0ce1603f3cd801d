"""From rows to Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cpu_suite.specs import shapes
from gpu_suite.forwards import FORWARD
from gpu_suite.rows import Check, KernelRow, ModelRow
from gpu_suite.specs import described

MODEL_HEADER = (
    "| | ms | tokens/s | × bf16 | weights GB | ÷ bf16 | peak GB | ÷ bf16 | head |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---|"
)
FOLDED = 3
"""Rows with one reason that stand in one line from so many on."""
KERNEL_HEADER = (
    "| kernel | shape | tokens | µs | TOPS | of the ceiling, % | GB/s | × bf16 |\n"
    "|---|---|---:|---:|---:|---:|---:|---:|"
)


def checks_text(checks: Sequence[Check]) -> str:
    """How many checks passed, and every other one with its reason; alike reasons once."""
    passed = sum(check.passed is True for check in checks)
    lines = [f"### Checks\n\n{passed} of {len(checks)} passed\n"]
    lines += [f"- FAILED: {c.name}: {c.detail}" for c in checks if c.passed is False]
    skipped: dict[str, int] = {}
    for check in checks:
        if check.passed is None:
            skipped[check.detail] = skipped.get(check.detail, 0) + 1
    lines += [f"- not run: {count} checks: {why}" for why, count in skipped.items()]
    return "\n".join(lines) + "\n"


def kernels_text(rows: Sequence[KernelRow], ceiling: float | None) -> str:
    """The table of single kernels."""
    top = "not measured" if ceiling is None else f"{ceiling / 1e12:.3g} TOPS"
    lines = [f"### Kernels; fastest int8 product of PyTorch in this run: {top}\n", KERNEL_HEADER]
    for row in rows:
        start = f"| {row.kernel} | {row.shape} | {row.tokens} |"
        if row.reason or row.seconds is None:
            lines.append(f"{start} not measured: {row.reason or 'no call'} |" + " |" * 4)
            continue
        cells = (
            f"{1e6 * row.seconds:.4g}",
            number(row.rate, lambda v: f"{v / 1e12:.3g}"),
            number(row.share, lambda v: f"{100 * v:.0f}"),
            number(row.bandwidth if row.bytes else None, lambda v: f"{v / 1e9:.4g}"),
            number(row.ratio, lambda v: f"{v:.2f}"),
        )
        lines.append(f"{start} " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def models_text(rows: Sequence[ModelRow]) -> str:
    """A table for each model, shape, task and kind of logits, in the order of the rows; then what has no figures."""
    groups: dict[tuple[str, str, str, bool], list[ModelRow]] = {}
    for row in rows:
        groups.setdefault((row.model, row.task, row.shape, row.masked), []).append(row)
    measured = [some for some in groups.values() if any(row.median is not None for row in some)]
    absent = [row for some in groups.values() if some not in measured for row in some]
    return "\n".join([*map(_model_table, measured), *([_absent_text(absent)] if absent else [])])


def _absent_text(rows: Sequence[ModelRow]) -> str:
    """What was measured of no variant: a line for each model and reason."""
    groups: dict[tuple[str, str], list[ModelRow]] = {}
    for row in rows:
        groups.setdefault((row.model, _reason(row)), []).append(row)
    lines = ["### Not measured\n"]
    for (model, reason), some in groups.items():
        names = ", ".join(dict.fromkeys(map(_shown, some)))
        tables = dict.fromkeys(f"{row.task} {row.shape}" for row in some)
        lines.append(f"- {model}: {names}; {', '.join(tables)}: {reason}")
    return "\n".join(lines) + "\n"


def _model_table(rows: Sequence[ModelRow]) -> str:
    first = rows[0]
    (shape,) = shapes(first.shape)
    what = FORWARD if first.task == FORWARD else f"a step of a generation of {first.steps} steps"
    logits = "logits of the masked tokens" if first.masked else "logits of all tokens"
    title = f"### {first.model}, {described(shape)}: {what}, {logits}"
    notes = dict.fromkeys(f"- {_shown(row)}: {row.note}" for row in rows if row.note)
    header = MODEL_HEADER.replace("bf16", first.floats)
    return "\n".join([title, "", header, *_model_lines(rows), "", *notes, ""])


def _model_lines(rows: Sequence[ModelRow]) -> list[str]:
    """Lines of the rows; where several have one reason, one line of all of them stands at the first one's place."""
    alike: dict[str, list[ModelRow]] = {}
    for row in rows:
        if row.median is None:
            alike.setdefault(_reason(row), []).append(row)
    lines: list[str] = []
    for row in rows:
        some = alike.get(_reason(row), []) if row.median is None else []
        if len(some) < FOLDED:
            lines.append(model_line(row))
        elif row is some[0]:
            lines.append(_unmeasured(", ".join(map(_shown, some)), _reason(row)))
    return lines


def _shown(row: ModelRow) -> str:
    """The variant's name with the type that it really has."""
    return row.variant.replace("bf16", row.floats)


def _reason(row: ModelRow) -> str:
    return row.reason or "no forward"


def _unmeasured(names: str, reason: str) -> str:
    return f"| {names} | not measured: {reason} |" + " |" * 7


def model_line(row: ModelRow) -> str:
    """One line; of a row without figures the reason."""
    if row.median is None:
        return _unmeasured(_shown(row), _reason(row))
    cells = (
        number(row.milliseconds, lambda v: f"{v:.4g}"),
        number(row.tokens_per_second, lambda v: f"{v:.0f}"),
        number(row.ratio, lambda v: f"{v:.2f}"),
        number(row.weight_bytes, lambda v: f"{v / 1e9:.2f}"),
        number(row.weight_share, lambda v: f"{v:.2f}"),
        number(row.peak_bytes, lambda v: f"{v / 1e9:.2f}"),
        number(row.peak_share, lambda v: f"{v:.2f}"),
        row.head.replace("bf16", row.floats),
    )
    return f"| {_shown(row)} | " + " | ".join(cells) + " |"


def goals_text(goals: Sequence[dict[str, object]]) -> str:
    """The table of what is wanted and what was measured."""
    lines = ["### Goals\n", "| | wanted | measured |", "|---|---:|---:|"]
    for goal in goals:
        value = goal["measured"]
        shown = f"{value:.3g}" if isinstance(value, float) else "not measured"
        lines.append(f"| {goal['name']} | {goal['wanted']} | {shown} |")
    return "\n".join(lines) + "\n"


def number(value: float | None, form: Callable[[float], str]) -> str:
    """A value, or a dash where there is none."""
    return "-" if value is None else form(value)
