"""How activations of masked and unmasked tokens are distributed at each site."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor, fx

from starquant_fx.calibration.activations import Recorder
from starquant_fx.evaluation.masks import MaskedBatch
from starquant_fx.program import Program, facts

LEVELS = (0.0, 0.001, 0.01, 0.25, 0.5, 0.75, 0.99, 0.999, 1.0)
STATES = ("unmasked", "masked")


@dataclasses.dataclass(frozen=True)
class Profile:
    """Input activations of one site.

    Attributes:
        site: Its name.
        roles: Of its linears, for example ("q", "k", "v").
        layer: How many sites of these roles come before it.
        quantiles: [2, 9] float32 of unmasked and masked tokens' values, at ``LEVELS``.
        channels: [2, d] float32, the largest absolute value of each channel.
    """

    site: str
    roles: tuple[str, ...]
    layer: int
    quantiles: Tensor
    channels: Tensor


def activation_profiles(program: Program, batches: Iterable[MaskedBatch]) -> list[Profile]:
    """Measures the inputs of all quantized sites.

    Args:
        program: With roles assigned and nothing quantized yet: what is measured is what a recipe's transforms start
            from, gains of norms folded away.
        batches: Segments with masks; all of them together are held in memory site by site.

    Returns:
        The sites in graph order.
    """
    sites = {site.name: site for site in program.quantized_sites()}
    nodes = [n for n in program.graph.nodes if facts(n).get("feeds") in sites]
    seen: dict[str, tuple[list[Tensor], list[Tensor]]] = {name: ([], []) for name in sites}
    for batch in batches:
        masked = batch.masked.flatten().to(program.device)

        def record(node: fx.Node, value: Tensor, masked: Tensor = masked) -> None:
            tokens = value.flatten(0, -2).float()
            unmasked_part, masked_part = seen[facts(node)["feeds"]]
            unmasked_part.append(tokens[~masked])
            masked_part.append(tokens[masked])

        with torch.no_grad():
            Recorder(program.module, nodes, record).run(batch.ids.to(program.device))
    profiles: list[Profile] = []
    before: dict[tuple[str, ...], int] = {}
    for name, site in sites.items():
        parts = [torch.cat(part) for part in seen.pop(name)]
        layer = before.setdefault(site.roles, 0)
        before[site.roles] += 1
        quantiles = torch.stack([_quantiles(part) for part in parts]).cpu()
        channels = torch.stack([_peaks(part) for part in parts]).cpu()
        profiles.append(Profile(name, site.roles, layer, quantiles, channels))
    return profiles


def _peaks(tokens: Tensor) -> Tensor:
    """Largest magnitude of each channel, NaN without tokens."""
    return tokens.abs().amax(0) if len(tokens) else torch.full((tokens.shape[1],), torch.nan)


def _quantiles(values: Tensor) -> Tensor:
    """Values at ``LEVELS``, NaN where there are none; ``torch.quantile`` takes 16 million numbers at most."""
    if not values.numel():
        return torch.full((len(LEVELS),), torch.nan)
    ordered = values.flatten().sort().values
    at = torch.tensor(LEVELS, dtype=torch.float64) * (len(ordered) - 1)
    return ordered[at.round().long()]
