"""The model card."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from tiny_training.corpus import HELD_OUT_STORY_PERCENT, Contents
from tiny_training.state import Progress, Settings
from tiny_training.stream import cut_lengths


@dataclass(frozen=True)
class Figures:
    """Figures of one held-out split.

    Attributes:
        nelbo: Nats per token.
        accuracy: Mask ratio -> share of masked tokens predicted right.
        windows: Windows evaluated.
        window: Tokens of a window.
    """

    nelbo: float
    accuracy: dict[float, float]
    windows: int
    window: int


@dataclass(frozen=True)
class Remarks:
    """What a card says that neither the run nor the corpus tells.

    Attributes:
        note: How final the weights are.
        command: The command that trained them.
        history: A sentence on how the run went, or None.
        hardware: What it ran on, for a run that did not record it.
    """

    note: str
    command: str
    history: str | None = None
    hardware: str | None = None


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
        rows.append(
            f"| {name} | {figures.nelbo:.4f} | {accuracies} | {figures.windows * figures.window:,} |"
        )
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


def _data(corpus: Contents) -> str:
    """The section on data and licences."""
    items = (
        f"Books: {corpus.books} children's books first published up to {corpus.last_year}, in the public domain in the "
        "United States, from the collection mlschmitt/classic-books-markdown. "
        f"{corpus.held_out_books} whole books are held out.",
        f"Stories: a lower-cased slice of {corpus.stories:,} stories of TinyStories by Ronen Eldan and Yuanzhi Li "
        '("TinyStories: How Small Can Language Models Be and Still Speak Coherent English?", 2023; '
        "roneneldan/TinyStories), under the Community Data License Agreement - Sharing - Version 1.0. "
        f"{HELD_OUT_STORY_PERCENT} % of the stories are held out for validation and {HELD_OUT_STORY_PERCENT} % for "
        "test, by a hash of the text.",
        "No story ships in this package. The weights are released under the licence of the package, Apache-2.0.",
    )
    splits = _wrap(
        "The splits are by document: no held-out book or story was trained on, and the tokenizer saw the training "
        "split only. The books speak as their time did, about people too; so may the model."
    )
    return "\n".join(_wrap(item, item=True) for item in items) + f"\n\n{splits}\n"


def _training(name: str, settings: Settings, progress: Progress, remarks: Remarks) -> str:
    """The items on how the model was trained."""
    *lengths, last = map(str, cut_lengths(settings.window))
    cut = f"{', '.join(lengths)} or {last}" if lengths else last
    hardware = "; then ".join(progress.hardware) or remarks.hardware or "not recorded"
    items = [
        "Objective: masked diffusion as LLaDA's (uniform mask ratio, 1/t weighting), packed windows of "
        f"{settings.window} tokens joined by the end-of-text token, cut to {cut}.",
        f"{progress.step:,} steps of {settings.batch * settings.window:,} tokens, "
        f"{progress.tokens / 1e6:.1f} M tokens in all, {progress.seconds / 3600:.2f} hours, seed {settings.seed}.",
        f"Muon for the hidden matrices (peak rate {settings.muon_rate:g}), AdamW for the embedding "
        f"({settings.embedding_rate:g}) and for the rest ({settings.adam_rate:g}); warm-up, constant, linear decay. "
        f"The curve is in `docs/training/{name}.jsonl`.",
        f"Hardware: {hardware}.",
    ]
    wrapped = [_wrap(item, item=True) for item in items]
    wrapped.append(f"- Command: `{remarks.command}`")  # whole, to be copied
    if remarks.history is not None:
        wrapped.append(_wrap(remarks.history, item=True))
    return "\n".join(wrapped)


def model_card(
    name: str,
    settings: Settings,
    parameters: int,
    progress: Progress,
    splits: dict[str, Figures],
    corpus: Contents,
    remarks: Remarks,
) -> str:
    """Returns the card as Markdown.

    Args:
        name: Name of the model.
        settings: The run's settings.
        parameters: Number of parameters.
        progress: How far it was trained, and on what.
        splits: Figures of each held-out split.
        corpus: What it was trained and tested on.
        remarks: What neither the run nor the corpus tells.
    """
    about = _wrap(
        f"A masked diffusion language model of {parameters / 1e6:.2f} M parameters in "
        f"{_shape(settings)}. It exists to measure quantization on a real, trained model that fits "
        "in a package; it writes in the manner of children's books and knows nothing."
    )
    window = next(iter(splits.values())).window
    measured = _wrap(
        f"Measured on the shipped bfloat16 weights, computed in float32, on evenly spaced windows of {window} tokens "
        "of whole held-out documents. NELBO: mask ratios t stratified over (0, 1], cross-entropy of masked tokens "
        "weighted by 1/t. Accuracy: the most likely token is the true one, each token masked with the given "
        "probability."
    )
    return f"""# {name}

{about}

**{remarks.note}**

## Held-out figures

{_table(splits)}

{measured}

## Training

{_training(name, settings, progress, remarks)}

## Data and licences

{_data(corpus)}"""
