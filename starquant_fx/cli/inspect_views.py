"""What ``inspect`` shows on the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from starquant_fx.errors import InputError
from starquant_fx.sampling.arguments import choice

ALL = "all"
CRITICAL_PATH = "critical-path"
CHIP = "H200"
"""Whose time the critical path is predicted on where none is named."""


@dataclasses.dataclass(frozen=True)
class Views:
    """The options that choose what is shown, as the command line names them."""

    stage: str | None
    diff: str | None
    site: str | None
    sites: bool
    sort: str | None
    passes: bool
    analysis: list[str] | None
    chip: str | None
    every: bool

    def check(self) -> None:
        """Refuses what no recording has.

        Raises:
            InputError: There is no such analysis, order or chip, or a chip without the analysis that needs one.
        """
        from starquant_fx.cost.chips import chip_named
        from starquant_fx.inspection.terminal import SORTS

        for given in self.analysis or []:
            choice("--analysis", given, (*ANALYSES, ALL))
        if self.sort is not None:
            choice("--sort", self.sort, tuple(SORTS))
        if self.chip is not None and CRITICAL_PATH not in self._analyses():
            raise InputError(
                "--chip has no effect here",
                where="--chip",
                expected=f"--analysis {CRITICAL_PATH} beside it",
                got=f"--chip {self.chip}",
                hint="leave the option out, or ask for this analysis",
            )
        chip_named(CHIP if self.chip is None else self.chip)

    def check_names(self, recording: Any) -> None:
        """Refuses names that a recording lacks, before anything is written or shown.

        Raises:
            InputError: It has no such stage or site; the nearest names are offered.
        """
        from starquant_fx.inspection.difference import parse_range

        if self.stage is not None:
            recording.stage(self.stage)
        if self.diff is not None:
            parse_range(self.diff, recording)
        if self.site is not None:
            recording.site(self.site)

    def shown(self, recording: Any, summary: bool) -> Iterator[Any]:
        """What rich prints.

        Args:
            recording: The recording.
            summary: Whether there is something to show where no option asks for anything.
        """
        from starquant_fx.inspection import terminal
        from starquant_fx.inspection.difference import difference, parse_range

        stage = recording.last if self.stage is None else recording.stage(self.stage)
        asked = False
        if self.passes:
            asked = True
            yield terminal.timeline(recording)
        if self.site is not None:
            asked = True
            yield terminal.site(recording, self.site, stage.name)
        elif self.stage is not None and not self.analysis:
            asked = True
            yield terminal.stage(recording, stage.name, all=self.every, nodes=self.every)
        if self.diff is not None:
            asked = True
            found = difference(*parse_range(self.diff, recording))
            yield terminal.difference(found, all=self.every)
        if self.sites:
            asked = True
            yield terminal.sites(recording, self.sort or "")
        for name in self._analyses():
            asked = True
            yield ANALYSES[name](recording, stage, self)
        if summary and not asked:
            yield terminal.timeline(recording)
            yield terminal.stage(recording, stage.name)

    def _analyses(self) -> list[str]:
        asked = self.analysis or []
        return list(ANALYSES) if ALL in asked else list(dict.fromkeys(asked))


def _critical_path(recording: Any, stage: Any, views: Views) -> Any:
    from starquant_fx.inspection import analysis, terminal

    return terminal.critical_path(
        analysis.critical_path(stage, CHIP if views.chip is None else views.chip), all=views.every
    )


def _precision(recording: Any, stage: Any, views: Views) -> Any:
    from starquant_fx.inspection import analysis, terminal

    return terminal.precision_path(analysis.precision_path(recording, stage))


def _high_precision(recording: Any, stage: Any, views: Views) -> Any:
    from starquant_fx.inspection import analysis, terminal

    return terminal.high_precision(analysis.high_precision(recording, stage))


def _boundaries(recording: Any, stage: Any, views: Views) -> Any:
    from starquant_fx.inspection import analysis, terminal

    return terminal.boundaries(analysis.boundaries(recording, stage), stage.name)


ANALYSES: dict[str, Callable[[Any, Any, Views], Any]] = {
    CRITICAL_PATH: _critical_path,
    "precision": _precision,
    "high-precision": _high_precision,
    "boundaries": _boundaries,
}
