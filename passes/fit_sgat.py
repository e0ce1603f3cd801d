"""Fit SGAT: learn each site's basis and clip factors from cached activations."""

from __future__ import annotations

import dataclasses
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, fx

from starquant_fx.basis import BasisShape
from starquant_fx.calibration.activations import (
    at_site,
    note_missing_states,
    site_activations,
    token_labels,
)
from starquant_fx.calibration.basis_fit import (
    FitOptions,
    FittedSite,
    SiteProblem,
    aim_gates,
    fit_site,
)
from starquant_fx.calibration.fit_cache import remembered
from starquant_fx.calibration.tac_run import TRANSFORMED_STAGE
from starquant_fx.devices import making_tensors_on
from starquant_fx.kernels import reference
from starquant_fx.pass_base import Pass, Preserves
from starquant_fx.program import Program, Site
from starquant_fx.progress import track
from starquant_fx.recipe import LARGEST_SEED

VERSIONS = 8
"""Of a site's inputs that a gradient step holds: rotated, gated, rounded, and what their derivatives need."""


@dataclasses.dataclass(frozen=True)
class FitSgat(Pass):
    """Minimises the error of each site's outputs over calibration tokens of all states (paper, eq. 14-15).

    Attributes:
        epochs: Passes over the tokens; 0 = keep the start.
        batch: Tokens a step (the paper: 4 segments).
        lr: Learning rate, cosine schedule.
        aim: Start the gates where the states differ instead of anywhere.
        seed: Seed of the order of the tokens.
    """

    name: ClassVar[str] = "fit-sgat"
    after: ClassVar[tuple[str, ...]] = ("insert-sgat", "insert-quantizers")
    before: ClassVar[tuple[str, ...]] = ("fold-sgat",)
    preserves: ClassVar[Preserves] = Preserves.NOT
    epochs: int = 15
    batch: int = 1024
    lr: float = 5e-3
    aim: bool = True
    seed: int = 0

    def check_options(self) -> None:
        """The numbers are in range."""
        self.expect_range("epochs", 0)
        self.expect_range("batch", 1)
        self.expect_range("lr", 0)
        self.expect_range("seed", 0, LARGEST_SEED)

    def requires(self, program: Program) -> None:
        """A fit needs calibration data, unless the program has no weights."""
        self.expect_calibration(program)

    def run(self, program: Program) -> Program:
        """Fits the sites, one a core of the CPU: a site's products are too small to share between cores."""
        if not program.weightless:
            note_missing_states(program, token_labels(program))
            threads = torch.get_num_threads()
            turned = {s.name for s in program.quantized_sites() if program.site_nodes(s, "rotate")}
            problems = (
                (site, _problem(program, site, tokens, label))
                for site, tokens, label in site_activations(program)
                if site.name in turned
            )
            workers = _workers(program, threads) if program.device.type == "cpu" else 1
            try:
                fits = track(self._fits(program, problems, workers), "fitting SGAT", len(turned))
                for site, fitted in fits:
                    _store(program, site, fitted)
            finally:
                torch.set_num_threads(threads)
        program.keep_stage(TRANSFORMED_STAGE)
        return program

    def _fits(
        self, program: Program, problems: Iterable[tuple[Site, SiteProblem]], workers: int
    ) -> Iterator[tuple[Site, FittedSite]]:
        """Fits in order; few problems are in memory at a time, because each holds a site's tokens again."""
        if workers == 1:
            yield from ((site, self._fit(program, site, problem)) for site, problem in problems)
            return

        def fit(site: Site, problem: SiteProblem) -> tuple[Site, FittedSite]:
            with making_tensors_on(program.device):
                return site, self._fit(program, site, problem)

        single = partial(torch.set_num_threads, 1)
        with ThreadPoolExecutor(workers, initializer=single) as pool:
            waiting: deque[Future[tuple[Site, FittedSite]]] = deque()
            for one in problems:
                waiting.append(pool.submit(fit, *one))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _fit(self, program: Program, site: Site, problem: SiteProblem) -> FittedSite:
        factors = [program.tensor(n) for n in _factor_nodes(program, site)]
        if self.aim:
            factors = aim_gates(problem, factors)
        seed = self.seed + zlib.crc32(site.name.encode())
        options = FitOptions(self.epochs, self.batch, self.lr, seed)
        tensors = {
            "tokens": problem.tokens,
            "label": problem.label,
            "weight": problem.weight,
            "gates": problem.gates,
            **{f"factor_{i}": factor for i, factor in enumerate(factors)},
        }
        described = (problem.shape, problem.options, options)
        values = ["site", problem.clip, *(dataclasses.asdict(one) for one in described)]
        return FittedSite.of(
            remembered(
                program.cache,
                tensors,
                values,
                lambda: fit_site(problem, factors, options).parts(),
            )
        )


def _workers(program: Program, cores: int) -> int:
    """Sites that are fitted at once: one a core, or as many as the memory allows."""
    if program.memory is None or program.calibration is None or not any(program.quantized_sites()):
        return cores
    tokens = program.calibration.use()["kept"]
    # In float32: the weights, twice while they are read; versions of the tokens' inputs; and their outputs.
    largest = max(
        4
        * (2 * sum(s.outputs) * s.features + tokens * (VERSIONS * s.features + 2 * sum(s.outputs)))
        for s in program.quantized_sites()
    )
    return max(1, min(cores, program.memory // largest))


def _factor_nodes(program: Program, site: Site) -> list[fx.Node]:
    factors: list[fx.Node] = program.site_node(site, "rotate").args[1]  # type: ignore[assignment]
    return factors


def _store(program: Program, site: Site, fitted: FittedSite) -> None:
    """Writes factors, clip factors and findings of a fitted site into the program."""
    for node, factor in zip(_factor_nodes(program, site), fitted.factors, strict=True):
        program.set_tensor(str(node.target), factor)
    clips = [(n, fitted.clip) for n in program.site_nodes(site, "quantize")]
    clips += zip(
        program.site_nodes(site, "quantize_weight"),
        fitted.clip_weight.split(list(site.outputs)),
        strict=False,
    )
    for quantizer, value in clips:
        if isinstance(clip := quantizer.args[-1], fx.Node):
            program.set_tensor(str(clip.target), value.clone())
    found = program.findings.setdefault(site.name, {})
    found.update(fit_before=fitted.before, fit_after=fitted.after, leakage=fitted.leakage)


def _problem(program: Program, site: Site, tokens: Tensor, label: Tensor) -> SiteProblem:
    """Reads the site's problem off the graph."""
    rotate = program.site_node(site, "rotate")
    factors = [program.tensor(n) for n in _factor_nodes(program, site)]
    gates = program.site_nodes(site, "gate")
    read = rotate.args[0]
    assert isinstance(read, fx.Node)
    tokens = program.evaluate(read, dict(at_site(program, site, tokens, label))).float()
    structure = str(rotate.args[2])
    table = torch.ones(program.states, site.features)
    rank = 0
    if gates:
        shared, bounds = gates[0].args[2:4]
        table = reference.gate_table(site.features, shared, bounds).float()  # type: ignore[arg-type]
        rank = (site.features - int(str(shared))) // 2
    weights = [
        program.evaluate(node.args[0]).float()  # type: ignore[arg-type]
        for node in program.site_nodes(site, "rotate_weight")
    ]
    quantizers = [
        n for part in ("quantize", "quantize_weight") for n in program.site_nodes(site, part)
    ]
    clip = any(isinstance(n.args[-1], fx.Node) for n in quantizers)
    if structure == "dense":
        left, right = site.features, 1
    elif structure == "block":
        left, right = factors[0].shape[0], factors[0].shape[1]
    else:
        left, right = factors[-2].shape[0], factors[-1].shape[0]
    assert site.options is not None
    shape = BasisShape(structure, site.features, left, right, rank)
    return SiteProblem(tokens, label, torch.cat(weights), shape, table, site.options, clip)
