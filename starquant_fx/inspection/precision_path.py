"""Where precision is lost on the way from the input to the output."""

from __future__ import annotations

import dataclasses
import math

import networkx as nx

from starquant_fx.errors import InputError, nearest
from starquant_fx.inspection.kinds import graph, is_linear, site_of
from starquant_fx.inspection.recording import Node, Recording, SiteFacts, Stage

CAVEAT = (
    "A site's error is that of its own outputs given full-precision inputs: shares say which sites lose most, "
    "errors of several sites do not add up to the error at the end."
)


@dataclasses.dataclass(frozen=True)
class Loss:
    """A site on the path.

    Attributes:
        node: The product through which the path goes.
        site: The site.
        bits: Of the product in this stage; empty = full precision.
        error: Of the site; None = not measured, or in full precision here.
        share: Of the errors of all quantized sites on the path; None = nothing was measured, or not all is finite.
        running: Sum of the shares so far.
    """

    node: Node
    site: SiteFacts
    bits: str
    error: float | None
    share: float | None
    running: float | None


@dataclasses.dataclass(frozen=True)
class PrecisionPath:
    """A path and what its sites lose.

    Attributes:
        stage: Name of the stage.
        start: Name of its first node.
        end: Name of its last node.
        nodes: Names of all its nodes.
        losses: Its sites, in order.
        measured: How many of its quantized sites have a measured error.
    """

    stage: str
    start: str
    end: str
    nodes: tuple[str, ...]
    losses: tuple[Loss, ...]
    measured: int

    @property
    def quantized(self) -> int:
        """How many of its sites are quantized."""
        return sum(bool(loss.bits) for loss in self.losses)


def precision_path(
    recording: Recording, stage: Stage | None = None, start: str = "", end: str = ""
) -> PrecisionPath:
    """The path that goes through most sites, and what each loses.

    From input to output it follows the residual stream through the branch of every layer, so that all sites of the
    model lie on it, q, k and v or gate and up by one of them. Of two paths through as many sites it is the one of
    larger errors.

    Args:
        recording: The recording.
        stage: The stage; None = the last.
        start: The path's first node; empty = any.
        end: Its last node; empty = the output.

    Returns:
        The path. Without measured errors it tells bits only.

    Raises:
        InputError: There is no such node, or no path between the two.
    """
    stage = stage or recording.last
    last = end or next(
        (n.name for n in reversed(list(stage.nodes.values())) if n.operator == "output"), ""
    )
    if not last and stage.nodes:
        last = next(reversed(list(stage.nodes)))
    whole = graph(stage)
    for name in filter(None, (start, end)):
        if name not in stage.nodes:
            raise InputError(
                f"there is no node {name!r}",
                where=f"stage {stage.name}",
                expected="a node of this stage",
                got=repr(name),
                hint=nearest(name, stage.nodes) or "other stages have other nodes",
            )
    kept = (nx.ancestors(whole, last) | {last}) if last else set()
    if start:
        kept &= nx.descendants(whole, start) | {start}
    if start and start not in kept:
        raise InputError(
            "there is no path between these nodes",
            where=f"stage {stage.name}",
            expected="a node that the other one reads, itself or through others",
            got=f"{start!r} and {last!r}",
            hint="the values go from the first to the second; exchange them",
        )
    sites = {n: site for n in kept if (site := _product_site(stage.nodes[n], recording))}
    inputs = [n.name for n in stage.nodes.values() if n.operator == "input" and n.name in kept]
    path = _through_most(whole.subgraph(kept), sites, start or next(iter(inputs), ""), last)
    return _told(stage, path, sites)


def _product_site(node: Node, recording: Recording) -> SiteFacts | None:
    return site_of(node, recording) if is_linear(node) else None


def _through_most(
    part: nx.DiGraph, sites: dict[str, SiteFacts], start: str, last: str
) -> list[str]:
    weighted = nx.DiGraph()
    weighted.add_nodes_from(part)
    for before, name in part.edges:
        site = sites.get(name)
        # an error is below one but for a broken site, so that it only decides between as many sites
        weight = 0.0 if site is None else 1.0 + _up_to_one(site.error) / (1 + len(sites))
        weighted.add_edge(before, name, weight=weight)
    if not part:
        return []
    path: list[str] = nx.dag_longest_path(weighted, weight="weight")
    # what weighs nothing may be missing at the ends
    if start and start != path[0] and nx.has_path(part, start, path[0]):
        path = [*nx.shortest_path(part, start, path[0])[:-1], *path]
    return [*path, *nx.shortest_path(part, path[-1], last)[1:]]


def _up_to_one(error: float | None) -> float:
    """An error as a weight; what is not even a number is the worst."""
    if error is None:
        return 0.0
    return 1.0 if math.isnan(error) else min(max(error, 0.0), 1.0)


def _told(stage: Stage, path: list[str], sites: dict[str, SiteFacts]) -> PrecisionPath:
    on_path = [(stage.nodes[name], sites[name]) for name in path if name in sites]
    errors = [site.error if node.bits else None for node, site in on_path]
    total = sum(error for error in errors if error is not None)
    losses, running = [], 0.0
    for (node, site), error in zip(on_path, errors, strict=True):
        share = None if error is None or not total or not math.isfinite(total) else error / total
        running += share or 0.0
        losses.append(
            Loss(node, site, node.bits, error, share, running if share is not None else None)
        )
    return PrecisionPath(
        stage=stage.name,
        start=path[0] if path else "",
        end=path[-1] if path else "",
        nodes=tuple(path),
        losses=tuple(losses),
        measured=sum(error is not None for error in errors),
    )
