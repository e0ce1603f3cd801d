"""The program: a graph, what is known about it, and how it came to be. Every pass takes one and returns it."""

from __future__ import annotations

import contextlib
import dataclasses
import operator
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from starquant_fx.errors import PassError

if TYPE_CHECKING:
    from starquant_fx.calibration.data import CalibrationData
    from starquant_fx.calibration.fit_cache import FitCache
    from starquant_fx.recipe import Recipe, SiteRecipe

PROVENANCE = "starquant"
"""Key under ``node.meta["custom"]`` that survives re-export."""
CONSTANTS = "starquant"
"""First part of the qualified name of every tensor that a pass made."""
SITES = "_starquant_sites"
"""Attribute of a graph: nodes that were noted as parts of a site, by its name. Passes ask for them too often to go
through the graph; kept at the graph they go with it."""
ENTERING = "entering"
"""Placeholder of a part of a model: the one tensor that the parts before it hand on."""
ADDED_PARTS = ("state_bias", "low_rank")
"""Parts of a site that add to the result of a linear."""
LINEAR = torch.ops.aten.linear.default
ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


@dataclasses.dataclass
class Site:
    """Linears that read one tensor and therefore share one basis, one quantizer and one set of means.

    Attributes:
        name: Qualified name of the first linear.
        linears: Qualified names, in graph order.
        roles: One role a linear: q, k, v, qkv, o, gate, up, gate_up, down, head, dense.
        features: Input channels d.
        outputs: Output channels of each linear.
        options: How the recipe treats it; None = left in full precision.
        reason: Why it is left in full precision, if it is.
    """

    name: str
    linears: tuple[str, ...]
    roles: tuple[str, ...]
    features: int
    outputs: tuple[int, ...]
    options: SiteRecipe | None = None
    reason: str | None = None

    def among(self, roles: str) -> bool:
        """Whether roles separated by "+" name this site; ``all`` names every site but the head's."""
        named = set(roles.split("+"))
        return not named.isdisjoint(self.roles) or ("all" in named and "head" not in self.roles)


@dataclasses.dataclass(frozen=True)
class PassRecord:
    """What one pass did: its name and options as text, seconds, nodes before and after, findings."""

    name: str
    seconds: float
    nodes_before: int
    nodes_after: int
    notes: tuple[str, ...] = ()


@dataclasses.dataclass
class Program:
    """A captured model on its way through the pipeline.

    Attributes:
        module: The graph and its tensors. Placeholders are named after the model's arguments; the output is the logits.
        fake_mode: The mode of the fake tensors in ``node.meta["val"]``.
        recipe: What to do.
        mask_token_id: Id of the mask token; None if the token state is a graph input.
        calibration: States to estimate from; None = structural only (tensors are bound later).
        sites: By name; filled by ``assign-roles``.
        stages: Copies of the graph after chosen passes, sharing tensors, for later passes to measure against.
        records: What has run.
        findings: Facts that passes measured, ``findings[site or topic][fact]``.
        weightless: Whether the tensors are fake: passes rewrite only, real tensors are bound by name later.
        cache: Where fits are kept between compilations; None = nowhere.
        ratio_edges: Inner edges of the mask-ratio buckets that refine the token state; empty = none.
        memory: Bytes that a pass may take beside the program and its calibration data; None = any number.
        fake_values: The fake value of every kind of call, by what it is called with; see ``pass_manager.propagate``.
    """

    module: fx.GraphModule
    fake_mode: FakeTensorMode
    recipe: Recipe
    mask_token_id: int | None
    calibration: CalibrationData | None = None
    sites: dict[str, Site] = dataclasses.field(default_factory=dict)
    stages: dict[str, fx.GraphModule] = dataclasses.field(default_factory=dict)
    records: list[PassRecord] = dataclasses.field(default_factory=list)
    findings: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    weightless: bool = False
    cache: FitCache | None = None
    ratio_edges: tuple[float, ...] = ()
    memory: int | None = None
    fake_values: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def device(self) -> torch.device:
        """Where the program's tensors are."""
        return next((t.device for t in self.tensors().values()), torch.device("cpu"))

    @property
    def states(self) -> int:
        """Number of token states S: masked and unmasked, per mask-ratio bucket."""
        return 2 * (len(self.ratio_edges) + 1)

    @property
    def graph(self) -> fx.Graph:
        """The graph of ``module``."""
        return self.module.graph

    def placeholder(self, name: str) -> fx.Node | None:
        """Returns the placeholder of a model argument, or None if the capture has none."""
        return next(
            (n for n in self.graph.nodes if n.op == "placeholder" and n.target == name), None
        )

    def quantized_sites(self) -> Iterator[Site]:
        """Iterates over the sites that the recipe quantizes."""
        return (site for site in self.sites.values() if site.options is not None)

    def nodes(self, target: Any) -> list[fx.Node]:
        """All calls of one operator, in graph order."""
        return [n for n in self.graph.nodes if n.op == "call_function" and n.target == target]

    def site_nodes(self, site: Site, part: str) -> list[fx.Node]:
        """Nodes that passes marked as one ``part`` of a site (``tokens``, ``rotate``, ``linear`` ...)."""
        return [n for n in _nodes_of_site(self.graph, site.name) if facts(n).get("part") == part]

    def site_node(self, site: Site, part: str) -> fx.Node:
        """The only node of this part of a site.

        Raises:
            PassError: There is none, or more than one.
        """
        nodes = self.site_nodes(site, part)
        if len(nodes) != 1:
            raise PassError(
                f"the site has no unique {part!r} node",
                where=site.name,
                expected="1 node",
                got=f"{len(nodes)} nodes",
            )
        return nodes[0]

    def site_ends(self, site: Site) -> list[fx.Node]:
        """The site's outputs before they are scattered, one a linear: the linear and what was added to its result."""
        ends = []
        for linear in self.site_nodes(site, "linear"):
            end = linear
            while added := [u for u in end.users if facts(u).get("part") in ADDED_PARTS]:
                end = added[0]
            ends.append(end)
        return ends

    def tensor(self, node: fx.Node) -> Tensor:
        """The tensor that a ``get_attr`` node reads."""
        value = operator.attrgetter(str(node.target))(self.module)
        assert isinstance(value, Tensor)
        return value

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor the graph reads, by qualified name."""
        return {str(n.target): self.tensor(n) for n in self.graph.nodes if n.op == "get_attr"}

    def set_tensor(self, name: str, value: Tensor) -> None:
        """Sets (or replaces) the tensor with a qualified name; the graph's readers follow.

        It is laid out row by row, as files keep it: products of other layouts round differently.
        """
        value = value.contiguous()
        owner: Any = self.module
        *path, leaf = name.split(".")
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, torch.nn.Module())
            owner = getattr(owner, part)
        if leaf in owner._parameters:
            del owner._parameters[leaf]
        if leaf in owner._buffers:
            owner._buffers[leaf] = value
        else:
            owner.register_buffer(leaf, value)
        for node in self.graph.find_nodes(op="get_attr", sort=False):
            if node.target == name:
                node.meta["val"] = self.fake(value)

    def constant(self, name: str, make: Callable[[], Tensor]) -> fx.Node:
        """Adds a tensor to the program and a node that reads it, at the graph's top.

        Args:
            name: Name below ``starquant.``; the same name must mean the same tensor in every capture of a model.
            make: Makes the tensor (under fake tensors when the program holds no weights).

        Returns:
            The ``get_attr`` node (an existing one is reused).
        """
        qualified = f"{CONSTANTS}.{name}"
        for node in self.graph.find_nodes(op="get_attr", sort=False):
            if node.target == qualified:
                return node
        with self.fake_mode if self.weightless else contextlib.nullcontext():
            self.set_tensor(qualified, make())
        first = next(iter(self.graph.nodes))
        with self.graph.inserting_before(first):
            node = self.graph.get_attr(qualified)
        node.meta["val"] = self.fake(self.tensor(node))
        return node

    def fake(self, value: Tensor) -> Tensor:
        """The fake tensor that stands for ``value`` in ``node.meta["val"]``."""
        if isinstance(value, FakeTensor):
            return value
        return self.fake_mode.from_tensor(value, static_shapes=True)

    def follow(
        self, node: fx.Node, target: Any, arguments: tuple[Any, ...], **entries: Any
    ) -> fx.Node:
        """Inserts a call right after a node and hands it to all of the node's readers.

        Args:
            node: The node.
            target: What to call.
            arguments: Arguments of the call, ``node`` among them.
            **entries: Facts to note on the new node.

        Returns:
            The new node.
        """
        with self.graph.inserting_after(node):
            new = self.graph.call_function(target, arguments)
        node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
        note(new, **entries)
        return new

    def evaluate(self, node: fx.Node, known: dict[fx.Node, Any] | None = None) -> Any:
        """Computes one node from the program's tensors and known values of other nodes.

        Args:
            node: What to compute.
            known: Values to start from; receives the values of the nodes on the way.

        Returns:
            The node's value.

        Raises:
            PassError: The node depends on an input that is not known.
        """
        known = {} if known is None else known
        if node not in known:
            if node.op == "placeholder":
                raise PassError(
                    "the value depends on an input",
                    where=node.name,
                    expected="constants",
                    got="an input",
                )
            if node.op == "get_attr":
                known[node] = self.tensor(node)
            else:
                arguments, named = fx.map_arg(
                    (node.args, node.kwargs), lambda n: self.evaluate(n, known)
                )
                known[node] = node.target(*arguments, **named)  # type: ignore[operator]
        return known[node]

    def keep_stage(self, name: str) -> None:
        """Keeps a copy of the graph as it is now."""
        self.stages[name] = self.copied_module()

    def copied_module(self) -> fx.GraphModule:
        """A module with a copy of the graph, sharing its tensors."""
        graph = fx.Graph()
        values: dict[fx.Node, fx.Node] = {}
        output = graph.graph_copy(self.graph, values)
        graph.output(output)
        return fx.GraphModule(self.module, graph)


def facts(node: fx.Node) -> dict[str, Any]:
    """What the passes noted on a node: role, site, part, by (pass), of (the linear's qualified name)."""
    found: dict[str, Any] = node.meta.get("custom", {}).get(PROVENANCE, {})
    return found


def note(node: fx.Node, **entries: Any) -> None:
    """Adds entries to a node's facts without touching those of nodes it shares a dictionary with."""
    custom = dict(node.meta.get("custom", {}))
    custom[PROVENANCE] = {**custom.get(PROVENANCE, {}), **entries}
    node.meta["custom"] = custom
    known = getattr(node.graph, SITES, None)
    if "site" in entries and known is not None:
        known.setdefault(entries["site"], []).append(node)


def _nodes_of_site(graph: fx.Graph, name: str) -> list[fx.Node]:
    """Nodes that are noted as parts of a site now, in graph order."""
    known: dict[str, list[fx.Node]] | None = getattr(graph, SITES, None)
    if known is None:
        known = {}
        for node in graph.nodes:
            if "site" in facts(node):
                known.setdefault(facts(node)["site"], []).append(node)
        setattr(graph, SITES, known)
    noted = dict.fromkeys(known.get(name, ()))
    return sorted(n for n in noted if not n._erased and facts(n).get("site") == name)


def drop_unread_tensors(module: fx.GraphModule) -> None:
    """Deletes a module's tensors and empty submodules that no node of its graph reads."""
    module.delete_all_unused_submodules()
    read = {str(n.target) for n in module.graph.nodes if n.op == "get_attr"}
    named = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    for name, _ in named:
        if name not in read:
            path, _, leaf = name.rpartition(".")
            delattr(module.get_submodule(path), leaf)
