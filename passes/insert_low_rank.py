"""Insert low rank: the principal directions of each state's tokens bypass the quantizer. Exact."""

from __future__ import annotations

import dataclasses
import operator
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from starquant_fx.calibration.activations import (
    full_precision_parameters,
    site_activations,
    transformed_tokens,
)
from starquant_fx.operators import op
from starquant_fx.pass_base import Pass, Preserves
from starquant_fx.program import Program, Site, note


@dataclasses.dataclass(frozen=True)
class InsertLowRank(Pass):
    """Adds ``(x - mu_z) U_z (U_z^T W^T)`` in high precision; the quantizer sees what U_z leaves.

    Ours, beyond the paper. U_z holds the k leading eigenvectors of the second moment of what the site's transform
    reads, over the calibration tokens of state z. It costs 2 d k multiply-adds a token and k n more a linear.

    Attributes:
        rank: Directions k of each state.
        sites: Roles of the sites that get a branch, separated by "+"; "all" = every site but the head's.
    """

    name: ClassVar[str] = "insert-low-rank"
    after: ClassVar[tuple[str, ...]] = ("insert-partition",)
    before: ClassVar[tuple[str, ...]] = (
        "insert-scaling",
        "insert-duquant",
        "insert-sgat",
        "insert-quantizers",
    )
    preserves: ClassVar[Preserves] = Preserves.NUMERICALLY
    rank: int = 8
    sites: str = "all"

    def check_options(self) -> None:
        """The rank is in range, and the roles exist."""
        self.expect_range("rank", 1)
        self.expect_roles("sites")

    def requires(self, program: Program) -> None:
        """There is something to estimate from."""
        self.expect_calibration(program)

    def run(self, program: Program) -> Program:
        """Estimates the directions of every chosen site and inserts the branch."""
        chosen = {s.name for s in program.quantized_sites() if s.among(self.sites)}
        if program.weightless:
            for site in program.quantized_sites():
                if site.name in chosen:
                    k = min(self.rank, site.features)
                    empty = torch.empty(program.states, site.features, k)
                    tables = [torch.empty(program.states, k, n) for n in site.outputs]
                    _insert(program, site, empty, tables)
            return program
        for site, tokens, label in site_activations(program):
            if site.name in chosen:
                x = transformed_tokens(program, site, tokens, label)
                u = principal_directions(x, label, program.states, min(self.rank, x.shape[1]))
                u = u.to(program.site_node(site, "tokens").meta["val"].dtype).float()
                weights = full_precision_parameters(program, site)
                _insert(program, site, u, [u.mT @ weight.T for weight, _ in weights])
        return program


def principal_directions(tokens: Tensor, label: Tensor, states: int, rank: int) -> Tensor:
    """Leading eigenvectors of the second moment of each state's tokens.

    Args:
        tokens: [N, d], centred if the site is.
        label: [N] states.
        states: Number of states S.
        rank: k <= d.

    Returns:
        [S, d, k] float32 with orthonormal columns; zero for a state without tokens.
    """
    out = torch.zeros(states, tokens.shape[1], rank)
    for state in range(states):
        x = tokens[label == state].double()
        if rank <= len(x) < x.shape[1]:  # the same directions, without a d x d problem
            mixes = torch.linalg.eigh(x @ x.T).eigenvectors[:, -rank:]
            # QR keeps the order, the leading one first, and makes up what tokens of a lower rank lack.
            out[state] = torch.linalg.qr(x.T @ mixes.flip(1)).Q.flip(1).float()
        elif len(x):
            out[state] = torch.linalg.eigh(x.T @ x).eigenvectors[:, -rank:].float()
    return out


def _insert(program: Program, site: Site, directions: Tensor, tables: list[Tensor]) -> None:
    graph = program.graph
    linears, label = program.site_nodes(site, "linear"), program.site_node(site, "states")
    ends = program.site_ends(site)
    basis = program.constant(f"{site.name}.directions", directions.clone)
    with graph.inserting_before(linears[0]):
        split = graph.call_function(op("split_low_rank"), (linears[0].args[0], label, basis))
        rest, coefficients = (graph.call_function(operator.getitem, (split, i)) for i in (0, 1))
    note(split, site=site.name, part="split")
    note(rest, site=site.name, part="rest")
    for linear, end, name, table in zip(linears, ends, site.linears, tables, strict=True):
        linear.update_arg(0, rest)
        image = program.constant(f"{name}.low_rank", partial(table.clone))
        entries = {"site": site.name, "part": "low_rank", "of": name}
        program.follow(end, op("add_low_rank"), (end, label, coefficients, image), **entries)
