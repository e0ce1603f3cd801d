"""The model card."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from tiny_training.state import Progress, Settings


@dataclass(frozen=True)
class Figures:
    """Figures of one held-out split.

    Attributes:
        nelbo: Nats per token.
        accuracy: Mask ratio -> share of masked tokens predicted right.
        tokens: Tokens evaluated.
    """

    nelbo: float
    accuracy: dict[float, float]
    tokens: int


DATA_AND_LICENCES = """## Data and licences

- Books: 62 children's books first published up to 1928, in the public domain in the United States,
  from the collection mlschmitt/classic-books-markdown. Six whole books are held out.
- Stories: a lower-cased slice of 5,479 stories of TinyStories by Ronen Eldan and Yuanzhi Li
  ("TinyStories: How Small Can Language Models Be and Still Speak Coherent English?", 2023;
  roneneldan/TinyStories), under the Community Data License Agreement - Sharing - Version 1.0. 2 %
  of the stories are held out for validation and 2 % for test, by a hash of the text.
- No story ships in this package. The weights are released under the licence of the package,
  Apache-2.0.

The splits are by document: no held-out book or story was trained on, and the tokenizer saw the
training split only. The books speak as their time did, about people too; so may the model.
"""


def _table(splits: dict[str, Figures]) -> str:
    ratios = next(iter(splits.values())).accuracy
    rows = [
        "| split | NELBO, nats per token | "
        + " | ".join(f"accuracy at {ratio:g}" for ratio in ratios)
        + " | tokens |",
        "|---" * (len(ratios) + 3) + "|",
    ]
    for name, figures in splits.items():
        accuracies = " | ".join(f"{100 * value:.1f} %" for value in figures.accuracy.values())
        rows.append(f"| {name} | {figures.nelbo:.4f} | {accuracies} | {figures.tokens:,} |")
    return "\n".join(rows)


def _shape(settings: Settings) -> str:
    config = settings.config
    if settings.arch == "llada":
        return (
            f"the layout of LLaDA-8B: {config['n_layers']} layers, width {config['d_model']}, "
            f"{config['n_heads']} heads, MLP {config['mlp_hidden_size']}, "
            f"{config['embedding_size']} tokens"
        )
    return (
        f"the layout of Dream-v0-7B (shifted logits, grouped-query attention, biases on q, k and v): "
        f"{config['num_hidden_layers']} layers, width {config['hidden_size']}, "
        f"{config['num_attention_heads']} heads on {config['num_key_value_heads']} key-value heads, "
        f"MLP {config['intermediate_size']}, {config['vocab_size']} tokens"
    )


def _wrap(text: str, item: bool = False) -> str:
    """Breaks a paragraph, or an item of a list, into lines."""
    return textwrap.fill(
        text,
        100,
        initial_indent="- " if item else "",
        subsequent_indent="  " if item else "",
        break_on_hyphens=False,
        break_long_words=False,
    )


def model_card(
    name: str,
    settings: Settings,
    parameters: int,
    progress: Progress,
    validation: Figures,
    test: Figures,
    note: str,
    command: str,
    history: str | None = None,
) -> str:
    """Returns the card as Markdown.

    Args:
        name: Name of the model.
        settings: The run's settings.
        parameters: Number of parameters.
        progress: How far it was trained.
        validation: Figures on the validation split.
        test: Figures on the test split.
        note: How final the weights are.
        command: The command that trained them.
        history: A sentence on how the run went.
    """
    about = _wrap(
        f"A masked diffusion language model of {parameters / 1e6:.2f} M parameters in "
        f"{_shape(settings)}. It exists to measure quantization on a real, trained model that fits "
        "in a package; it writes in the manner of children's books and knows nothing."
    )
    amount = _wrap(
        f"{progress.step:,} steps of {settings.batch * settings.window:,} tokens, "
        f"{progress.tokens / 1e6:.1f} M tokens in all, {progress.seconds / 3600:.2f} hours, seed "
        f"{settings.seed}.",
        item=True,
    )
    rates = _wrap(
        f"Muon for the hidden matrices (peak rate {settings.muon_rate:g}), AdamW for the embedding "
        f"({settings.embedding_rate:g}) and for the rest ({settings.adam_rate:g}); warm-up, "
        f"constant, linear decay. The curve is in `docs/training/{name}.jsonl`.",
        item=True,
    )
    extra = "" if history is None else _wrap(history, item=True) + "\n"
    return f"""# {name}

{about}

**{note}**

## Held-out figures

{_table({"validation": validation, "test": test})}

Measured on the shipped bfloat16 weights, computed in float32, on evenly spaced windows of 256
tokens of whole held-out documents. NELBO: mask ratios t stratified over (0, 1], cross-entropy of
masked tokens weighted by 1/t. Accuracy: the most likely token is the true one, each token masked
with the given probability.

## Training

- Objective: masked diffusion as LLaDA's (uniform mask ratio, 1/t weighting), packed windows of
  {settings.window} tokens joined by the end-of-text token, cut to 512, 256, 128 or 64.
{amount}
{rates}
- Hardware: one thread of a shared 2-core x86-64 server CPU, bfloat16 products, float32 weights.
- Command: `{command}`
{extra}
{DATA_AND_LICENCES}"""
