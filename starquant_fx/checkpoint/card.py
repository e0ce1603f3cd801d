"""The model card of a checkpoint: what its report says, and how it is loaded. Nothing in it was not measured."""

from __future__ import annotations

import html
import json
import re
import statistics
from collections import Counter

from starquant_fx.checkpoint.format import REPORT_FILE, Quantization
from starquant_fx.errors import InputError, plain
from starquant_fx.models.locate import HUB_ID
from starquant_fx.report import Report, SiteRow
from starquant_fx.sizes import shown_size

LIBRARY = "starquant-fx"
SPECIAL = re.compile(r"([\\`*_\[\]#|~]|(?<=:)/(?=/)|(?<=www)\.)")
"""What Markdown gives a meaning to within a line; the last two make links of bare addresses."""
WITH_TOKENIZER = """import starquant_fx
from transformers import AutoModelForMaskedLM, AutoTokenizer

model = AutoModelForMaskedLM.from_pretrained(folder_or_hub_id)
tokenizer = AutoTokenizer.from_pretrained(folder_or_hub_id)
ids = model.generate(tokenizer(prompt, return_tensors="pt")["input_ids"])"""
WITHOUT_TOKENIZER = """import starquant_fx
from transformers import AutoModelForMaskedLM

model = AutoModelForMaskedLM.from_pretrained(folder_or_hub_id)
ids = model.generate(prompt_ids)  # [1, L], of the tokenizer of the model that was quantized"""
NAMED = 8
"""How many linears that stayed in full precision are named."""


def model_card(
    report: Report,
    model_type: str,
    says: Quantization,
    stored: int,
    base_model: str | None = None,
    tags: tuple[str, ...] = (),
    tokenizer: bool = False,
) -> str:
    """Writes the card.

    Args:
        report: What the compilation did.
        model_type: Of the configuration.
        says: The checkpoint's ``quantization_config``.
        stored: Bytes of the folder's tensors.
        base_model: Hub id of the model that was quantized; left out if it is none.
        tags: Further tags.
        tokenizer: Whether the folder has one.

    Returns:
        Markdown with a YAML header, which is made of JSON values.
    """
    front: dict[str, object] = {
        "library_name": LIBRARY,
        "pipeline_tag": "text-generation",
        "tags": ["starquant", "quantized", "masked-diffusion", model_type.lower(), *tags],
    }
    if base_model is not None and HUB_ID.fullmatch(base_model):
        front |= {"base_model": base_model, "base_model_relation": "quantized"}
    header = "\n".join(f"{key}: {json.dumps(value)}" for key, value in front.items())
    of = f" of {text(base_model)}" if "base_model" in front and base_model else ""
    rows = "\n".join(f"| {name} | {value} |" for name, value in _figures(report, says, stored))
    left = _left(report)
    notes = "".join(f"\n- {text(note)}" for note in report.notes)
    return f"""---
{header}
---

# {text(report.recipe)}{of}

A masked diffusion language model ({text(model_type)}), quantized by StarQuant FX {text(says.package_version)}.

## How it is loaded

```python
{WITH_TOKENIZER if tokenizer else WITHOUT_TOKENIZER}
```

or, of a local folder, `compiled = starquant_fx.load(folder)`. Neither runs code of this repository.

## What was done

| | |
|---|---|
{rows}

Errors are ‖y − y'‖² / ‖y‖² of a site's outputs on calibration states, each given full-precision inputs. All
figures are those of `{REPORT_FILE}`, which has a row for every site, and of the index of the tensors. No task or text
was evaluated for this card.

{_sites(report)}
{left}{notes}
"""


def check_tags(tags: object) -> tuple[str, ...]:
    """Returns tags as a tuple; one text is one tag.

    Raises:
        InputError: They are something else than texts.
    """
    named = [tags] if isinstance(tags, str) else tags or []
    if not isinstance(named, list | tuple) or not all(isinstance(one, str) for one in named):
        raise InputError(
            "the tags of the model card are not usable",
            where="tags",
            expected="a text, or several",
            got=repr(tags)[:100],
            hint="tags=['calibrated-on-german']",
        )
    return tuple(named)


def text(value: object) -> str:
    """A value as plain text on one line of Markdown: nothing in it makes markup, a table cell or HTML."""
    line = " ".join(plain(str(value)).split())
    return SPECIAL.sub(r"\\\1", html.escape(line, quote=False))


def _figures(report: Report, says: Quantization, stored: int) -> list[tuple[str, str]]:
    """Rows of what holds for the whole model."""
    before, after = report.bytes_before, report.bytes_after
    bits = Counter(row.bits for row in report.sites)
    errors = [row.error for row in report.sites if row.error is not None]
    used = report.calibration
    return [
        ("recipe", text(report.recipe)),
        ("target", text(report.target)),
        ("computes in", text(says.dtype)),
        (
            "model, floats as bf16",
            f"{shown_size(before)} → {shown_size(after)} ({after / max(before, 1):.0%})",
        ),
        ("tensors in this folder", shown_size(stored)),
        (
            "sites",
            f"{len(report.sites)}: "
            + ", ".join(f"{count} × {text(name)}" for name, count in bits.items()),
        ),
        (
            "error of a site",
            f"median {statistics.median(errors):.2g}, largest {max(errors):.2g}"
            if errors
            else "not measured",
        ),
        (
            "calibration",
            f"{used.get('sequences', 0):,} sequences, {used.get('tokens', 0):,} tokens"
            if used
            else "none",
        ),
    ]


def _sites(report: Report) -> str:
    """A table of the sites by their roles."""
    kinds: dict[str, list[SiteRow]] = {}
    for row in report.sites:
        kinds.setdefault(" ".join(row.roles), []).append(row)
    lines = ["| roles | sites | bits | transform | median error |", "|---|---|---|---|---|"]
    for roles, rows in kinds.items():
        errors = [row.error for row in rows if row.error is not None]
        bits = ", ".join(sorted({row.bits for row in rows}))
        transforms = ", ".join(sorted({row.transform for row in rows}))
        error = f"{statistics.median(errors):.2g}" if errors else "not measured"
        lines.append(
            f"| {text(roles)} | {len(rows)} | {text(bits)} | {text(transforms)} | {error} |"
        )
    return "\n".join(lines)


def _left(report: Report) -> str:
    """What stayed in full precision, with the reasons."""
    if not report.unquantized:
        return "\nNo linear stayed in full precision.\n"
    named = [f"- {text(name)}: {text(reason)}" for name, reason in report.unquantized[:NAMED]]
    more = len(report.unquantized) - len(named)
    named += [f"- and {more} more"] if more else []
    return "\n".join(["", "In full precision stayed:", "", *named, ""])
