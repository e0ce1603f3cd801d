"""``starquant-fx demo``: the main job on the shipped model, from graph to text."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from starquant_fx.cli.compile import print_pass
from starquant_fx.cli.evaluate import measure
from starquant_fx.cli.options import Seed, load

MODEL = "llada-tiny"
RECIPES = ("rtn-w4a4", "star-w4a4")
PROMPT = "Once upon a time"
LENGTH = 256
NEW_TOKENS = 60
NARROWEST = 20
"""Columns that a text needs."""
DRAWS = 4
"""Monte-Carlo draws a segment for the NELBO."""


def demo_command(
    segments: Annotated[
        int, typer.Option("--segments", min=1, help="Held-out segments of 256 tokens.")
    ] = 64,
    seed: Seed = 0,
) -> None:
    """Compile llada-tiny with RTN and STaR at W4A4, show the passes, the cost table, and one prompt side by side."""
    import torch
    from rich.console import Console
    from rich.text import Text

    from starquant_fx.diffusion import generate
    from starquant_fx.evaluation.masks import mask_plan
    from starquant_fx.evaluation.sheets import summary_sheet
    from starquant_fx.evaluation.text import excerpt
    from starquant_fx.evaluation.text import segments as cut
    from starquant_fx.recipes import get_recipe
    from starquant_fx.sampling.arguments import sampler_arguments

    console = Console()
    start = time.perf_counter()
    model, tokenizer = load(MODEL)
    ids = cut(excerpt("test"), tokenizer, LENGTH, segments)
    console.print(f"{MODEL}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters")

    def observe(text: str, program: Any) -> None:
        if program is None:
            console.print(Text(f"\n{text}", style="bold"))
        else:
            print_pass(console, text, program)

    comparison, costs, models = measure(
        model,
        tokenizer,
        [get_recipe(name).seeded(seed) for name in RECIPES],
        [excerpt("calibration")],
        ids,
        mask_plan(len(ids), ids.shape[1], seed=seed, draws=DRAWS),
        observe,
    )
    console.print(models[RECIPES[-1]].report)
    console.print(
        f"\n{MODEL} on {len(ids)} held-out segments of {LENGTH} tokens (test split, seed {seed})"
    )
    console.print(summary_sheet(comparison, costs).table())
    prompt = torch.tensor([tokenizer(PROMPT, add_special_tokens=False)["input_ids"]])
    texts = {}
    for name, denoiser in models.items():
        torch.manual_seed(seed)
        live = tokenizer if console.is_terminal and name == RECIPES[-1] else None
        arguments = sampler_arguments(model, NEW_TOKENS, NEW_TOKENS)
        out = generate(denoiser, prompt, live=live, **arguments)
        texts[name] = str(tokenizer.decode(out[0], skip_special_tokens=True))
    console.print(side_by_side(texts, console.width))
    console.print(f"{time.perf_counter() - start:.0f} s in all")


def side_by_side(texts: dict[str, str], width: int) -> Any:
    """Panels beside each other, or below each other where a panel would get too narrow to be read.

    Args:
        texts: Texts by title.
        width: Columns of the console.

    Returns:
        What rich prints.
    """
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    share = width // len(texts)
    if share < NARROWEST:
        return Group(*(Panel(Text(text), title=title) for title, text in texts.items()))
    row = Table.grid()
    row.add_row(*(Panel(Text(text), title=title, width=share) for title, text in texts.items()))
    return row
