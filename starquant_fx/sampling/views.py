"""A progress bar and a live view of the tokens being unmasked, for people who watch.

Both draw nothing before the first step is done, so that a refused argument leaves the screen alone.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

MASKED_BLOCK = "\u2591\u2591 "
STYLES = {"prompt": "dim italic", "old": "", "new": "bold black on green", "masked": "dim"}


def progress_bar(console: Console) -> Progress:
    """Returns a bar that counts denoising steps and estimates the time left."""
    return Progress(
        TextColumn("denoising"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )


class ProgressView:
    """A step callback that draws a progress bar on standard error; used as a context manager.

    Args:
        console: Where to draw; standard error by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._bar = progress_bar(console or Console(stderr=True))
        self._task = self._bar.add_task("denoising", total=None)

    def __call__(self, step: int, total: int, ids: Any, confidence: Any) -> None:
        """Moves the bar."""
        self._bar.start()
        self._bar.update(self._task, completed=step, total=total)

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leaves the last drawing on the screen."""
        if self._bar.live.is_started:
            self._bar.stop()


class LiveView:
    """A step callback that redraws the text after every step; used as a context manager.

    The prompt is dim, masked tokens are dim blocks, tokens revealed by the last step are
    highlighted.

    Args:
        tokenizer: A transformers tokenizer; only ``decode`` is used.
        prompt_ids: [B, L] ids, a tensor or an array.
        attention_mask: [B, L], 0 = padding, which is not shown; or None.
        mask_id: Id of [MASK].
        bar: Also draw a progress bar below the text.
        console: Where to draw; standard output by default.
    """

    def __init__(
        self,
        tokenizer: Any,
        prompt_ids: Any,
        attention_mask: Any,
        mask_id: int,
        *,
        bar: bool = True,
        console: Console | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._given = (prompt_ids, attention_mask)
        self._prompt: list[list[int]] = []
        self._before: list[list[int]] = []
        self._padded: list[int] = []
        self._mask_id = mask_id
        console = console or Console()
        self._bar = progress_bar(console) if bar else None
        self._task = self._bar.add_task("denoising", total=None) if self._bar else None
        self._live = Live(console=console, auto_refresh=False)

    def __call__(self, step: int, total: int, ids: Any, confidence: Any) -> None:
        """Draws the state after one step."""
        if not self._live.is_started:
            self._start()
        rows: list[list[int]] = ids.tolist()
        parts: list[RenderableType] = [
            Panel(self._row(i, row), title=f"step {step} of {total}", title_align="left")
            for i, row in enumerate(rows)
        ]
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, total=total)
            parts.append(self._bar)
        self._live.update(Group(*parts), refresh=True)
        self._before = rows

    def _start(self) -> None:
        prompt_ids, attention_mask = self._given
        self._prompt = self._before = prompt_ids.tolist()
        self._padded = [0] * len(self._prompt)
        if attention_mask is not None:
            self._padded = (attention_mask == 0).sum(1).tolist()
        self._live.start()

    def _row(self, index: int, row: list[int]) -> Text:
        """One row's text, runs of tokens in the style of their kind."""
        before, skip = self._before[index], self._padded[index]
        kinds = [self._kind(index, i, row[i], before) for i in range(len(row))]
        text, start = Text(), skip
        while start < len(row):
            end = start
            while end < len(row) and kinds[end] == kinds[start]:
                end += 1
            if kinds[start] == "masked":
                text.append(MASKED_BLOCK * (end - start), STYLES["masked"])
            else:
                text.append(self._decode(row, kinds, start, end, skip), STYLES[kinds[start]])
            start = end
        return text

    def _kind(self, index: int, column: int, token: int, before: list[int]) -> str:
        if token == self._mask_id:
            return "masked"
        prompt = self._prompt[index]
        if column < len(prompt) and prompt[column] != self._mask_id:
            return "prompt"
        known = column < len(before) and before[column] != self._mask_id
        return "old" if known else "new"

    def _decode(self, row: list[int], kinds: list[str], start: int, end: int, skip: int) -> str:
        """Decodes row[start:end] as it reads after the unmasked tokens before it (spaces)."""
        left = start
        while left > skip and kinds[left - 1] != "masked":
            left -= 1
        context = str(self._tokenizer.decode(row[left:start])) if left < start else ""
        whole = str(self._tokenizer.decode(row[left:end]))
        shown = whole[len(context) :] if whole.startswith(context) else ""
        if not shown:
            shown = str(self._tokenizer.decode(row[start:end]))
        # A model can write anything, terminal control sequences included.
        return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in shown)

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leaves the last drawing on the screen."""
        self._live.stop()
