from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from starquant_fx.diffusion import generate, llada_generate
from starquant_fx.sampling.views import MASKED_BLOCK, STYLES, LiveView, ProgressView
from tests.diffusion.fakes import MASK, Denoiser, WordTokenizer

PROMPT = torch.tensor([[0, 1, 2], [7, 3, 4]])
KEEP = torch.tensor([[1, 1, 1], [0, 1, 1]])


def console() -> Console:
    return Console(record=True, file=io.StringIO(), width=60, force_terminal=True)


def draw(view: LiveView, *states: list[list[int]]) -> None:
    with view:
        for step, ids in enumerate(states):
            tensor = torch.tensor(ids)
            view(step + 1, len(states), tensor, torch.zeros(tensor.shape))


def test_live_view_shows_prompt_masks_and_new_tokens() -> None:
    screen = console()
    view = LiveView(WordTokenizer(), PROMPT, KEEP, MASK, bar=False, console=screen)
    draw(view, [[0, 1, 2, 5, MASK, MASK], [7, 3, 4, MASK, 6, MASK]])
    text = screen.export_text()
    assert "step 1 of 1" in text
    blocks = MASKED_BLOCK * 2
    assert f"zero one two five{blocks}".rstrip() in text
    assert f"three four{MASKED_BLOCK}six{MASKED_BLOCK}".rstrip() in text
    assert "seven" not in text  # the padded column


def test_live_view_highlights_only_what_the_last_step_revealed() -> None:
    screen = console()
    prompt = PROMPT[:1]
    view = LiveView(WordTokenizer(), prompt, None, MASK, bar=False, console=screen)
    draw(view, [[0, 1, 2, MASK, 6]], [[0, 1, 2, 5, 6]])
    second = screen.export_text(styles=True).split("step 2 of 2")[1]
    row = second.split("\n")[1]
    highlight = STYLES["new"]
    assert highlight == "bold black on green"
    assert "\x1b[1;30;42m five\x1b[0m" in row
    assert "\x1b[2;3mzero one two\x1b[0m" in row
    assert "six" in row.split("five")[1]
    assert "42m" not in row.split("five")[1]


def test_live_view_writes_no_control_sequences_of_the_model() -> None:
    screen = console()
    view = LiveView(WordTokenizer(), torch.tensor([[1]]), None, MASK, bar=False, console=screen)
    draw(view, [[1, 9]])
    plain = screen.export_text(clear=False)
    assert "\x1b" not in plain
    assert "\x1b[31m" not in screen.export_text(styles=True)
    assert "one \ufffd[31mred" in plain


def test_live_view_follows_a_generation() -> None:
    screen = console()
    view = LiveView(WordTokenizer(), PROMPT, KEEP, MASK, console=screen)
    with view:
        ids = llada_generate(
            Denoiser().eval(), PROMPT, KEEP, steps=4, gen_length=8, block_length=4, on_step=view
        )
    text = screen.export_text()
    assert all(f"step {step} of 4" in text for step in (1, 2, 3, 4))
    assert "4/4" in text
    last = text.split("step 4 of 4")[1]
    assert "\u2591" not in last
    assert WordTokenizer().decode(ids[0].tolist()).replace("\x1b", "\ufffd") in last


def test_progress_counts_steps() -> None:
    screen = console()
    with ProgressView(console=screen) as view:
        for step in (1, 2, 3):
            view(step, 3, torch.zeros(1, 1), torch.zeros(1, 1))
    assert "3/3" in screen.export_text()


@pytest.mark.parametrize(("progress", "shown"), [(True, True), (False, False), (None, False)])
def test_progress_bar_is_drawn_when_asked_for(
    progress: bool | None, shown: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    generate(Denoiser(), PROMPT, steps=2, gen_length=4, block_length=4, progress=progress)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert ("2/2" in captured.err) is shown


def test_live_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"steps": 2, "gen_length": 4, "block_length": 4}
    ids = generate(Denoiser(), PROMPT, KEEP, live=WordTokenizer(), progress=False, **options)
    captured = capsys.readouterr()
    assert WordTokenizer().decode(ids[1, 1:].tolist()) in captured.out
    assert captured.err == ""


def test_views_survive_a_failing_model() -> None:
    calls = 0

    def failing(ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("out of memory")
        return torch.zeros(*ids.shape, 12)

    with pytest.raises(RuntimeError, match="out of memory"):
        generate(
            failing,
            PROMPT,
            live=WordTokenizer(),
            steps=2,
            gen_length=4,
            block_length=4,
            mask_id=MASK,
        )
