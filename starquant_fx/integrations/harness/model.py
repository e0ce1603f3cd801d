"""The model type ``starquant`` of the lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]

from starquant_fx.integrations.harness.generation import Generator
from starquant_fx.integrations.harness.likelihood import AnswerScorer
from starquant_fx.integrations.harness.loading import denoiser
from starquant_fx.integrations.harness.requests import (
    Fitting,
    Pair,
    check_tokenizer,
    usable_length,
    usable_mask_token,
    windows,
)
from starquant_fx.integrations.harness.scoring import Scorer
from starquant_fx.integrations.harness.texts import Texts
from starquant_fx.integrations.harness.textual import TextualLM
from starquant_fx.model_facts import model_device
from starquant_fx.sampling.arguments import integer, number


class StarQuantLM(TextualLM):
    """A masked diffusion model, in full precision or low bits, as the harness calls it.

    Likelihoods are lower bounds, by Monte Carlo as in LLaDA's published evaluation; texts come from the model's
    published sampler. The same request gets the same masks from every model. Before anything is computed, every
    request of a call is checked, and contexts too long for the model are cut on the left and counted.

    Args:
        pretrained: A model (compiled or not), a shipped name, a folder or a hub id.
        tokenizer: The tokenizer; by default the one beside the weights.
        recipe: Compile with this recipe first; None = as it is.
        artifact: Bind this artifact of ``starquant-fx compile`` instead.
        calibration: Text file to calibrate on; by default the shipped excerpt for shipped models, else the model's
            own generations.
        mc_num: Monte-Carlo draws an answer; answers with no more subsets than that are computed exactly.
        batch_size: Rows a forward pass; memory grows with rows · tokens · vocabulary. "auto" means 8.
        max_batch_size: Accepted for the harness's sake; not used.
        device: Where a named model is loaded.
        seed: Seed of masks, calibration and sampling.
        cfg: Strength of classifier-free guidance, 0 = off.
        max_length: Longest sequence; by default the model's.
        padding: Whether rows of different lengths may share a batch; False for models without attention masks.
        check_greedy: Find whether each answer is the greedy one, which some tasks' metrics need.
        gen_length: New tokens; by default what the task asks for, else 256.
        steps: Denoising steps; by default one a token.
        block_length: Tokens of a block (LLaDA); by default all in one.

    Raises:
        StarQuantError: The model cannot be loaded or compiled, or an argument does not fit.
    """

    def __init__(
        self,
        pretrained: Any,
        tokenizer: Any = None,
        recipe: Any = None,
        artifact: str | None = None,
        calibration: str | None = None,
        mc_num: int = 128,
        batch_size: int | str = 8,
        max_batch_size: int | None = None,
        device: str | None = None,
        seed: int = 0,
        cfg: float = 0.0,
        max_length: int | None = None,
        padding: bool = True,
        check_greedy: bool = True,
        gen_length: int | None = None,
        steps: int | None = None,
        block_length: int | None = None,
    ) -> None:
        super().__init__()
        rows = 8 if str(batch_size).startswith("auto") else int(batch_size)
        integer("batch_size", rows, 1)
        integer("mc_num", mc_num, 1)
        number("cfg", cfg, 0.0)
        self.model, self.tokenizer = denoiser(
            pretrained, tokenizer, recipe, artifact, calibration, seed, device
        )
        check_tokenizer(self.tokenizer, self.model)
        self.texts = Texts(self.tokenizer)
        mask_id = usable_mask_token(self.model, self.tokenizer)
        self.fitting = Fitting(usable_length(self.model, max_length), mask_id)
        scorer = Scorer(self.model, mask_id, rows, padding, cfg)
        self.answers = AnswerScorer(scorer, mc_num, seed, check_greedy)
        lengths = (gen_length, steps, block_length)
        self.generator = Generator(
            self.model, self.tokenizer, self.fitting, rows, padding, *lengths, cfg, seed
        )

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> StarQuantLM:
        """Makes one from the harness's command line, which asks for a GPU unless it is told otherwise."""
        options = dict(additional_config or {})
        if str(options.get("device")).startswith("cuda") and not torch.cuda.is_available():
            options["device"] = None
        return cls(**arg_dict, **{k: v for k, v in options.items() if v is not None})

    @property
    def max_length(self) -> int | None:
        """Longest sequence; None = any."""
        return self.fitting.longest

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Device of the model."""
        return model_device(self.model, torch.device("cpu"))

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Scores (context, continuation) requests, see ``AnswerScorer``.

        Raises:
            InputError: A request cannot be scored.
        """
        for request in requests:
            self.texts.some_ids(request.args[1], "a continuation")
        results: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return results

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Scores whole texts: the bounds on windows of the model's length, given what precedes each, summed.

        Raises:
            InputError: A text is empty.
        """
        texts = [request.args[0] for request in requests]
        owners: list[int] = []
        pairs: list[Pair] = []
        for index, text in enumerate(texts):
            ids = self.texts.some_ids(text, "a text")
            pairs += windows(text, ids, self.prefix_token_id, self.fitting)
            owners += [index] * (len(pairs) - len(owners))
        results = [0.0] * len(texts)
        for which, result in self.answers.score(pairs):
            results[owners[which]] += result.log_likelihood
        for text, value in zip(texts, results, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), value)
        return results

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Completes (context, arguments) requests, see ``Generator``.

        Raises:
            InputError: A request cannot be completed.
        """
        results = [""] * len(requests)
        for index, text in self.generator.generate(*self.generation(requests)):
            results[index] = self.texts.without_specials(text)
            self.cache_hook.add_partial("generate_until", requests[index].args, results[index])
        return results

    def get_model_info(self) -> dict[str, Any]:
        """What the harness notes beside its results."""
        recipe = getattr(self.model, "recipe", None)
        return {
            "recipe": None if recipe is None else recipe.name,
            "mc_num": self.answers.draws,
            "mask_seed": self.answers.seed,
            "cfg": self.answers.scorer.cfg_scale,
            "truncated_requests": self.fitting.truncated,
        }

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Scores encoded requests ((context, continuation), context ids, continuation ids)."""
        results = [(0.0, False)] * len(requests)
        pairs = [self.fitting.request(request) for request in requests]
        for index, result in self.answers.score(pairs):
            results[index] = (result.log_likelihood, result.greedy)
            self.cache_hook.add_partial("loglikelihood", requests[index][0], results[index])
        return results

    def generation(self, requests: list[Any]) -> tuple[list[list[int]], list[dict[str, Any]]]:
        """Prompts as token ids, and arguments, of (context, arguments) requests."""
        texts = [request.args[0] for request in requests]
        prompts = [self.texts.ids(text) or [self.prefix_token_id] for text in texts]
        return prompts, [dict(request.args[1]) for request in requests]


# Not as a decorator, whose declared type would hide the class's own attributes.
register_model("starquant")(StarQuantLM)
