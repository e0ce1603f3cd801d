"""Activations at chosen nodes of a graph, over the calibration data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx

from starquant_fx.calibration.data import FULL, TRANSFORMED, CalibrationData
from starquant_fx.errors import CalibrationError
from starquant_fx.kernels import reference
from starquant_fx.operators import op
from starquant_fx.program import ENTERING, LINEAR, Program, Site, facts

FULL_PRECISION_STAGE = "assign-roles"
"""Stage whose graph computes what the original model does."""


class Recorder(fx.Interpreter):
    """Runs a graph and hands the values of chosen nodes to a callback; stops after the last of them.

    Args:
        module: The graph.
        nodes: What to record.
        record: Called with each chosen node and its value.
        quantizers_off: Let quantizers pass values through unchanged (weights and activations).
    """

    def __init__(
        self,
        module: fx.GraphModule,
        nodes: Collection[fx.Node],
        record: Callable[[fx.Node, Tensor], None],
        quantizers_off: bool = False,
    ) -> None:
        super().__init__(module)
        self._wanted = set(nodes)
        self._record = record
        self._off = quantizers_off
        order = {node: i for i, node in enumerate(module.graph.nodes)}
        self._last = max((order[n] for n in nodes), default=-1)
        self._order = order

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node, unless nothing recorded can depend on it."""
        if self._order[n] > self._last:
            return None
        value = self._pass_through(n) if self._off else NotImplemented
        if value is NotImplemented:
            value = super().run_node(n)
        if n in self._wanted:
            self._record(n, value)
        return value

    def _pass_through(self, n: fx.Node) -> Any:
        if n.target in (op("quantize_activation"), op("quantize_weight")):
            return (self.env[n.args[0]],) * 3  # type: ignore[index]
        if n.target in (op("dequantize_activation"), op("pack"), op("dequantize_weight")):
            return self.env[n.args[0]]  # type: ignore[index]
        return NotImplemented


def run_recorded(
    program: Program,
    module: fx.GraphModule,
    nodes: Collection[fx.Node],
    record: Callable[[fx.Node, Tensor], None],
    stream: str = FULL,
    first: int | None = None,
) -> None:
    """Runs a stage of a program over its calibration data, recording the values of some nodes chunk by chunk.

    Args:
        program: The program.
        module: Its stage.
        nodes: What to record.
        record: Called with each node and its value.
        stream: What the stage computes, of ``data.STREAMS``; quantizers are off in ``full`` and ``transformed``.
        first: Sequences used at most; None = all.
    """
    assert program.calibration is not None
    recorder = Recorder(module, nodes, record, quantizers_off=stream in (FULL, TRANSFORMED))
    with torch.no_grad():
        for chunk in program.calibration.inputs(stream, first=first):
            recorder.run(*graph_inputs(module.graph, *chunk).values())


def graph_inputs(
    graph: fx.Graph, ids: Tensor, states: Tensor | None, entering: Tensor | None = None
) -> dict[fx.Node, Any]:
    """Values of a graph's placeholders, in order: ids, and token states and what enters a part if it takes them."""
    given = {"token_state": states, ENTERING: entering}
    return {n: given.get(str(n.target), ids) for n in graph.nodes if n.op == "placeholder"}


def states_of(program: Program, ids: Tensor, states: Tensor | None) -> Tensor:
    """States [B, L] of tokens, 1 = masked: as given, or where the mask token stands."""
    if states is not None:
        return states
    assert program.mask_token_id is not None
    return reference.token_state(ids, program.mask_token_id)


def token_labels(program: Program) -> Tensor:
    """State of every kept calibration token [N]."""
    data = program.calibration
    assert data is not None
    labels = []
    for ids, states in data.chunks():
        state = states_of(program, ids, states)
        labels.append(reference.ratio_state(state, None, program.ratio_edges).flatten())
    return torch.cat(labels)[data.subset()]


def note_missing_states(program: Program, label: Tensor) -> None:
    """Notes for the report if calibration tokens of some state are missing: nothing can be estimated for it."""
    counts = torch.bincount(label, minlength=program.states).tolist()
    missing = [str(state) for state, count in enumerate(counts) if not count]
    if missing:
        text = (
            f"calibration holds no tokens of state {', '.join(missing)} of {program.states} (odd = masked): "
            "means, gates and directions of the other states stand in"
        )
        program.findings.setdefault("notes", {})["states"] = text


def site_activations(program: Program) -> Iterator[tuple[Site, Tensor, Tensor]]:
    """Full-precision inputs of every quantized site.

    Args:
        program: A program with calibration data whose roles are assigned.

    Yields:
        The site, its tokens [N, d] float32, and their states [N].

    Raises:
        CalibrationError: An activation is not finite.
    """
    data = program.calibration
    assert data is not None
    if any(site.name not in data.activations for site in program.quantized_sites()):
        _collect(program)
    labels = token_labels(program)
    for site in program.quantized_sites():
        yield site, data.activations[site.name], labels


def full_precision_parameters(program: Program, site: Site) -> list[tuple[Tensor, Tensor | None]]:
    """Weights [n, d] and biases [n] of a site's linears before any pass quantized them, float32."""
    module = program.stages[FULL_PRECISION_STAGE]
    found: list[tuple[Tensor, Tensor | None]] = []
    for node in module.graph.nodes:
        if facts(node).get("site") == site.name and node.target == LINEAR:
            weight, *bias = (
                attrgetter(str(a.target))(module).float() for a in node.args[1:] if a is not None
            )
            found.append((weight, bias[0] if bias else None))
    return found


def at_site(program: Program, site: Site, tokens: Tensor, label: Tensor) -> dict[fx.Node, Tensor]:
    """Values to evaluate a site's nodes from, given what it reads.

    Args:
        program: The program.
        site: The site.
        tokens: [N, d] inputs of the site.
        label: [N] their states.

    Returns:
        The values of the site's source, and of the outputs of its partition and the token state if it has them.
    """
    source = next(n for n in program.graph.nodes if facts(n).get("feeds") == site.name)
    tokens = tokens.to(source.meta["val"].dtype)
    known: dict[fx.Node, Tensor] = {source: tokens}
    for part, value in (("tokens", tokens), ("states", label)):
        known.update(dict.fromkeys(program.site_nodes(site, part), value))
    return known


def transformed_tokens(program: Program, site: Site, tokens: Tensor, label: Tensor) -> Tensor:
    """What the site's quantizer reads, or its linears if it has none: centred, scaled, rotated, gated.

    Args:
        program: The program.
        site: The site.
        tokens: [N, d] inputs of the site.
        label: [N] their states.

    Returns:
        [N, d] float32.
    """
    quantizers = program.site_nodes(site, "quantize")
    node = quantizers[0].args[0] if quantizers else program.site_nodes(site, "linear")[0].args[0]
    assert isinstance(node, fx.Node)
    value: Tensor = program.evaluate(node, dict(at_site(program, site, tokens, label)))
    return value.float()


def _collect(program: Program) -> None:
    """Fills the cache of the sites' inputs, keeping no more of each chunk than the subset."""
    data = program.calibration
    assert data is not None
    stage = program.stages[FULL_PRECISION_STAGE]
    wanted = {s.name for s in program.quantized_sites()}
    nodes = [n for n in stage.graph.nodes if facts(n).get("feeds") in wanted]
    keep = data.subset()
    seen: dict[str, int] = {}
    parts: dict[str, list[Tensor]] = {}

    def record(node: fx.Node, value: Tensor) -> None:
        name = facts(node)["feeds"]
        _check_finite(name, value)
        start = seen.get(name, 0)
        tokens = value.flatten(0, -2)
        seen[name] = start + tokens.shape[0]
        rows = keep[(keep >= start) & (keep < seen[name])] - start
        parts.setdefault(name, []).append(tokens[rows].float())

    run_recorded(program, stage, nodes, record)
    for name in list(parts):
        data.activations[name] = torch.cat(parts.pop(name))


def kept_tokens(data: CalibrationData, name: str, values: list[Tensor]) -> Tensor:
    """The tokens [N, d] float32 that are kept of a site's inputs.

    Args:
        data: The calibration data.
        name: Of the site.
        values: [..., d] of every chunk.

    Raises:
        CalibrationError: A value is not finite.
    """
    for value in values:
        _check_finite(name, value)
    return torch.cat([value.flatten(0, -2) for value in values])[data.subset()].float()


def _check_finite(name: str, value: Tensor) -> None:
    bad = ~torch.isfinite(value)
    if bool(bad.any()):
        first = tuple(bad.nonzero()[0].tolist())
        raise CalibrationError(
            "activations are not finite",
            where=name,
            expected="finite numbers",
            got=f"NaN or Inf in {int(bad.sum())} of {bad.numel()} values read by this site, the first, "
            f"{float(value[first])}, at {list(first)} of {list(value.shape)}",
            hint="check the model's weights and dtype",
        )
