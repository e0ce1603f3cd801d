from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

from starquant_fx.calibration.activations import (
    full_precision_parameters,
    quantized_inputs,
    site_activations,
)
from starquant_fx.errors import PassError
from starquant_fx.passes import CorrectBias
from starquant_fx.program import Program
from tests.small_programs import continued, rewritten, until

BEFORE = until("insert-tac")


def mean_errors(program: Program) -> list[float]:
    """Size of the mean output error of each state, site by site, all sites quantized."""
    found = []
    for site, full, label in site_activations(program):
        # The sequences of the first length are corrected on; the cached tokens are theirs, then the others'.
        read, full, label = (t[:128] for t in (quantized_inputs(program, site, ()), full, label))
        known = {n: read for n in program.site_nodes(site, "tokens")}
        known |= {n: label for n in program.site_nodes(site, "states")}
        parameters = full_precision_parameters(program, site)
        for end, (weight, bias) in zip(program.site_ends(site), parameters, strict=True):
            error = linear(full, weight, bias) - program.evaluate(end, dict(known))
            found += [float(error[label == state].mean(0).norm()) for state in (0, 1)]
    return found


@pytest.mark.parametrize("kind", ["odd", "dream", "bert"])
def test_mean_outputs_of_every_state_are_those_of_full_precision(kind: str) -> None:
    program = rewritten(kind, BEFORE)
    after = continued(program, CorrectBias(prior=0.0))
    before, corrected = mean_errors(program), mean_errors(after)
    assert max(corrected) < 0.02 * max(before)
    assert all(after.findings[s.name]["bias_moved"] > 0 for s in after.quantized_sites())


def test_a_prior_moves_less_and_a_large_one_nothing() -> None:
    program = rewritten("odd", BEFORE)
    rows = {
        prior: [
            continued(program, CorrectBias(prior=prior)).tensor(n.args[2])  # type: ignore[arg-type]
            for n in program.site_nodes(next(program.quantized_sites()), "state_bias")
        ]
        for prior in (0.0, 1e12)
    }
    old = [
        program.tensor(n.args[2])  # type: ignore[arg-type]
        for n in program.site_nodes(next(program.quantized_sites()), "state_bias")
    ]
    for start, none, all_of_it in zip(old, rows[1e12], rows[0.0], strict=True):
        torch.testing.assert_close(none, start)
        assert not torch.allclose(all_of_it, start)


def test_without_bias_rows_it_is_refused() -> None:
    program = rewritten("odd", until("fold-sgat", "rtn-w4a4"), "rtn-w4a4")
    with pytest.raises(PassError, match="no bias rows") as caught:
        CorrectBias().requires(program)
    assert "insert-centering" in str(caught.value)
