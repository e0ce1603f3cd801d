"""The options of the torch.compile backend: checked, and turned into a compiled model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from starquant_fx.api import compile
from starquant_fx.artifact import load_artifact
from starquant_fx.calibration.prepare import Calibration
from starquant_fx.compiled import CompiledModel
from starquant_fx.errors import RecipeError, StaleParametersError, nearest
from starquant_fx.fingerprint import fingerprint
from starquant_fx.recipe import Recipe
from starquant_fx.recipes import get_recipe

DEFAULT_RECIPE = "star-w4a4"
WHERE = "torch.compile(options=...)"
IDENTICAL = ("calibration", "tokenizer", "artifact")
"""Options that are the same only if they are one object."""


@dataclasses.dataclass(frozen=True, eq=False)
class BackendOptions:
    """What ``options`` of torch.compile may hold.

    Where several models of one class are compiled in one process, torch compares their options, and fails on two that
    differ in a tensor only: give the models their codes as ``artifact`` then.

    Attributes:
        recipe: As for ``starquant_fx.compile``. Beside an artifact: the recipe that it must have been made with.
        calibration: As for ``starquant_fx.compile``.
        tokenizer: As for ``starquant_fx.compile``.
        target: As for ``starquant_fx.compile``.
        mask_token_id: As for ``starquant_fx.compile``.
        artifact: The same model as ``starquant_fx.compile`` compiled it, or the file it was saved to: its codes are
            used and nothing is calibrated.
    """

    recipe: str | Recipe = DEFAULT_RECIPE
    calibration: Calibration = None
    tokenizer: Any = None
    target: str = "auto"
    mask_token_id: int | None = None
    artifact: CompiledModel | str | Path | None = None
    given: frozenset[str] = dataclasses.field(default=frozenset(), repr=False)

    @classmethod
    def parse(cls, options: Mapping[str, Any] | None) -> BackendOptions:
        """Checks the options.

        Args:
            options: As given to torch.compile; a value of None counts as not given.

        Returns:
            The options, with defaults for what was not given.

        Raises:
            RecipeError: An unknown key or recipe (the nearest name is offered), or keys that exclude each other.
        """
        known = [f.name for f in dataclasses.fields(cls) if f.name != "given"]
        for key in options or {}:
            if key not in known:
                raise RecipeError(
                    f"unknown option {key!r}",
                    where=WHERE,
                    expected=", ".join(known),
                    got=str(key),
                    hint=nearest(str(key), known) or "the backend takes no others",
                )
        values = {key: value for key, value in (options or {}).items() if value is not None}
        parsed = cls(**values, given=frozenset(values))
        get_recipe(parsed.recipe)
        excluded = parsed.given - {"artifact", "recipe"}
        if parsed.artifact is not None and excluded:
            raise RecipeError(
                "an artifact is already compiled",
                where=WHERE,
                expected="no option beside it but recipe",
                got=", ".join(sorted(excluded)),
                hint="leave the artifact out to compile anew",
            )
        if not isinstance(parsed.artifact, CompiledModel | str | Path | None):
            raise RecipeError(
                "not an artifact",
                where=WHERE,
                expected="what starquant_fx.compile returned, or the file it was saved to",
                got=type(parsed.artifact).__name__,
                hint="save_artifact(compiled, path) writes one",
            )
        return parsed

    def same(self, other: BackendOptions) -> bool:
        """Whether both ask for the same codes."""
        return all(
            getattr(self, f.name) is getattr(other, f.name)
            if f.name in IDENTICAL
            else getattr(self, f.name) == getattr(other, f.name)
            for f in dataclasses.fields(self)
        )

    def make(self, model: nn.Module) -> CompiledModel:
        """Compiles the model, or takes the artifact after checking that it fits.

        Args:
            model: The model that torch.compile was called on.

        Returns:
            The compiled model.

        Raises:
            RecipeError: The artifact was made with another recipe, or takes token states as an input.
            StaleParametersError: The model's parameters are not those that the artifact was made from.
            StarQuantError: As ``starquant_fx.compile`` and ``load_artifact``.
        """
        if self.artifact is None:
            return compile(
                model,
                self.recipe,
                calibration=self.calibration,
                tokenizer=self.tokenizer,
                target=self.target,
                mask_token_id=self.mask_token_id,
            )
        artifact = self.artifact
        if not isinstance(artifact, CompiledModel):
            artifact = load_artifact(model, artifact)
        self._check(artifact, model)
        return artifact

    def _check(self, artifact: CompiledModel, model: nn.Module) -> None:
        if "recipe" in self.given and get_recipe(self.recipe) != artifact.recipe:
            raise RecipeError(
                "the artifact was made with another recipe",
                where=WHERE,
                expected=get_recipe(self.recipe).name,
                got=artifact.recipe.name,
                hint="leave recipe out beside an artifact",
            )
        if artifact.program.placeholder("token_state") is not None:
            raise RecipeError(
                "the artifact needs token states, which the model's own call does not have",
                where=WHERE,
                expected="an artifact of a model with a mask token",
                got="token_state among its inputs",
                hint="call the artifact itself",
            )
        if artifact.fingerprint != fingerprint(dict(model.named_parameters())):
            raise StaleParametersError(
                "the artifact was made from other parameters",
                where=WHERE,
                expected=f"fingerprint {artifact.fingerprint[:12]}",
                got="another one: the model changed since, or is another model",
                hint="compile the model as it is now, or load the parameters that the artifact was made from",
            )
