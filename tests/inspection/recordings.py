"""Recordings built by hand: small transformers whose passes add, change and remove nodes."""

from starquant_fx.inspection.recording import Node, Recording, SiteFacts, Source, Stage

Nodes = dict[str, Node]
KIND = "f32[B, L, 64]"


class Graph:
    """Nodes of one stage, each reading some before it."""

    def __init__(self, stage: str, before: Nodes) -> None:
        self.nodes: Nodes = {}
        self._stage = stage
        self._before = before

    def add(
        self,
        name: str,
        operator: str,
        module: str,
        reads: list[str],
        made_from: str = "",
        **more: object,
    ) -> str:
        """A node; without ``made_from`` it was put behind what it reads."""
        earlier = self._before.get(name)
        origin = (made_from,) if made_from else tuple(one for one in reads if one in self._before)
        node = Node(
            name=name,
            operator=operator,
            module=module,
            sources=tuple(Source(one, 0, f"x{i}") for i, one in enumerate(reads)),
            outputs=(KIND,),
            made_by=earlier.made_by if earlier else self._stage,
            made_from=earlier.made_from if earlier else origin,
            flops=1000.0 * len(name),
            bytes=64.0 * len(operator),
            **more,  # type: ignore[arg-type]
        )
        self.nodes[name] = earlier if earlier is not None and earlier == node else node
        return name


def transformer(layers: int = 6, stages: int = 3, depth: int = 1, model: str = "tiny") -> Recording:
    """A recording.

    Args:
        layers: Of the model.
        stages: ``capture``, then passes that insert a rotation for every linear, and ``fuse`` that removes them.
        depth: Element-wise nodes in a row in each layer.
        model: Its name.
    """
    names = ["capture", *(f"insert-{i}" for i in range(stages - 2)), "fuse"][:stages]
    made: list[Stage] = []
    for i, name in enumerate(names):
        before = dict(made[-1].nodes) if made else {}
        graph = Graph(name, before)
        _fill(graph, layers, depth, rotations=0 if name == "fuse" else i, fused=name == "fuse")
        preserves = "" if i == 0 else "numerically"
        notes = (f"{layers} layers",) if i else ()
        made.append(Stage(name, name, preserves, 0.1 * i, notes, graph.nodes))
    sites = {site.name: site for site in map(_site, range(layers))}
    return Recording(model, "by-hand", "1x64", tuple(made), sites, "0.0")


def one_node(name: str, module: str = "layer", model: str = "tiny") -> Recording:
    """Of a model with one node besides its input, in two stages."""
    graph = Graph("capture", {})
    graph.add("input_ids", "input", "", [])
    start = Stage("capture", "capture", "", 0.0, (), graph.nodes)
    graph = Graph(name, dict(start.nodes))
    graph.add("input_ids", "input", "", [])
    tensors = ((name, name, name),)
    arguments = ((name, name),)
    graph.add(name, name, module, ["input_ids"], tensors=tensors, arguments=arguments, role=name)
    end = Stage(name, name, name, 0.1, (name,), graph.nodes)
    return Recording(model, name, name, (start, end), {}, name)


def _fill(graph: Graph, layers: int, depth: int, rotations: int, fused: bool) -> None:
    graph.add("input_ids", "input", "", [])
    graph.add("state", "starquant.token_state", "model.embed", ["input_ids"])
    x = graph.add("embedding", "aten.embedding", "model.embed", ["input_ids"])
    for i in range(layers):
        x = _layer(graph, i, x, depth, rotations, fused)
    graph.add("output", "output", "", [x])


def _layer(graph: Graph, i: int, x: str, depth: int, rotations: int, fused: bool) -> str:
    at, site = f"model.layers.{i}", f"model.layers.{i}.attn.q"
    y = graph.add(f"norm_{i}", "aten.rms_norm", f"{at}.norm", [x])
    for j in range(rotations):
        name = f"rotate_{i}_{j}"
        y = graph.add(name, "starquant.rotate", f"{at}.q+k+v site", [y, "state"], site=site)
    linears = []
    for role in "qkv":
        module = f"{at}.attn.{role}"
        kind = "starquant.quantized_linear" if fused else "aten.linear"
        name = f"quantized_{role}_{i}" if fused else f"linear_{role}_{i}"
        tensors = (("weight", f"{module}.weight", "f32[64, 64]"),)
        bits = "w4a4" if fused else ""
        more = {"role": role, "site": site, "linear": module, "tensors": tensors, "bits": bits}
        origin = f"linear_{role}_{i}" if fused else ""
        linears.append(graph.add(name, kind, module, [y], origin, **more))
    y = graph.add(f"attention_{i}", "aten.scaled_dot_product_attention", f"{at}.attn", linears)
    for j in range(depth):
        y = graph.add(f"mul_{i}_{j}", "aten.mul", f"{at}.mlp", [y])
    return graph.add(f"add_{i}", "aten.add", at, [x, y])


def _site(i: int) -> SiteFacts:
    linears = tuple(f"model.layers.{i}.attn.{role}" for role in "qkv")
    return SiteFacts(
        name=linears[0],
        linears=linears,
        roles=("q", "k", "v"),
        features=64,
        outputs=(64, 64, 64),
        bits="w4a4",
        transform="kronecker 8x8",
        gates=2,
        error=0.001 * (i + 1),
        leakage=0.01,
        bytes_before=49152,
        bytes_after=12288,
        flops=3000.0,
    )
