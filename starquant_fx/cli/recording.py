"""Where a recording comes from on the command line: a model, a configuration, or a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from starquant_fx.cli.checkpoints import is_checkpoint, recipe_of, refuse_options
from starquant_fx.cli.options import load
from starquant_fx.errors import InputError

RECIPE = "star-w4a4"
TOKENS = "1x1024"
SEED = 0


@dataclasses.dataclass(frozen=True)
class Source:
    """What is recorded; exactly one of the first three is given.

    Attributes:
        model: A model that is compiled, or a packed checkpoint.
        config: A configuration that is captured and rewritten without weights.
        file: A recording.
        recipe: Of the compilation; None = ``RECIPE``.
        tokens: The forward that is counted; None = ``TOKENS``.
        layers: How many to build of a configuration.
        target: Whose graph is the last stage of a configuration.
        calibration: As of ``compile``.
        cache: As of ``compile``.
        seed: As of ``compile``; None = ``SEED``.
    """

    model: str | None
    config: str | None
    file: Path | None
    recipe: str | None
    tokens: str | None
    layers: int | None
    target: str | None
    calibration: Path | None
    cache: Path | None
    seed: int | None

    def check(self) -> None:
        """Refuses what does not fit together, before anything is loaded.

        Raises:
            InputError: Not exactly one source, or options of another one.
            RecipeError: There is no such recipe.
        """
        from starquant_fx.cost.shapes import parse_shape

        sources = {"MODEL": self.model, "--config": self.config, "--recording": self.file}
        given = [name for name, value in sources.items() if value is not None]
        if len(given) != 1:
            raise InputError(
                "there is more than one thing to inspect"
                if given
                else "there is nothing to inspect",
                where=", ".join(sources),
                expected="one of them",
                got=", ".join(given) or "none",
                hint="for example `starquant-fx inspect --config llada-8b`",
            )
        options: dict[str, tuple[object, tuple[str, ...]]] = {
            "--recipe": (self.recipe, ("MODEL", "--config")),
            "--tokens": (self.tokens, ("MODEL", "--config")),
            "--seed": (self.seed, ("MODEL", "--config")),
            "--layers": (self.layers, ("--config",)),
            "--target": (self.target, ("--config",)),
            "--calibration": (self.calibration, ("MODEL",)),
            "--cache": (self.cache, ("MODEL",)),
        }
        for option, (value, fits) in options.items():
            if value is not None and given[0] not in fits:
                raise InputError(
                    f"{option} does not go with {given[0]}",
                    where=option,
                    expected=f"only with {' or '.join(fits)}",
                    got=f"{option} {value}",
                    hint="leave the option out",
                )
        if self.model is not None:
            self._check_model(self.model)
        parse_shape(TOKENS if self.tokens is None else self.tokens)
        if self.file is None:  # a recording is looked at without torch
            self._recipe()

    @staticmethod
    def _check_model(name: str) -> None:
        """Refuses as a model what another option takes."""
        from starquant_fx.models.named import SIZES

        option = ""
        if name.lower() in map(str.lower, SIZES):
            option = "--config"
        elif name.endswith(".json"):
            option = "--recording"
        if option:
            raise InputError(
                f"{name!r} is no model that is compiled",
                where="MODEL",
                expected="llada-tiny, dream-tiny, a folder with weights, or a hub id",
                got=name,
                hint=f"write {option} {name}",
            )

    def recording(self) -> Any:
        """Records, or reads.

        Raises:
            StarQuantError: It cannot be done.
        """
        from starquant_fx.cost.shapes import parse_shape
        from starquant_fx.inspection.collection import read_recording
        from starquant_fx.progress import working

        if self.file is not None:
            with working(f"reading {self.file}"):
                return read_recording(self.file)
        from starquant_fx.evaluation.corpus import calibration_texts
        from starquant_fx.inspection.record import (
            record_checkpoint,
            record_compilation,
            record_config,
        )
        from starquant_fx.models.named import named_model

        shape = parse_shape(TOKENS if self.tokens is None else self.tokens)
        if self.config is not None:
            named = named_model(self.config)
            recipe = recipe_of(named, self._of_recipe()) or self._recipe()
            with working(f"tracing {self.config} and running {recipe.name}"):
                return record_config(
                    named,
                    recipe,
                    shape=shape,
                    layers=self.layers,
                    target=self.target,
                )
        assert self.model is not None
        if is_checkpoint(self.model):
            given = {"--calibration": self.calibration, "--cache": self.cache}
            refuse_options(self.model, {**self._of_recipe(), **given})
            return record_checkpoint(self.model, shape=shape)
        texts = calibration_texts(self.model, self.calibration)
        model, tokenizer = load(self.model)
        return record_compilation(
            self.model,
            model,
            self._recipe(),
            shape=shape,
            calibration=texts,
            tokenizer=tokenizer,
            target="reference",
            cache=self.cache,
        )

    def _of_recipe(self) -> dict[str, object]:
        """Options that a packed checkpoint, which has its own recipe, does not take."""
        return {"--recipe": self.recipe, "--seed": self.seed is not None}

    def _recipe(self) -> Any:
        from starquant_fx.recipes import get_recipe

        return get_recipe(self.recipe or RECIPE).seeded(SEED if self.seed is None else self.seed)
