import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from starquant_fx.capture import capture
from starquant_fx.errors import CaptureError
from starquant_fx.evaluation.taps import Tapped, layer_taps
from starquant_fx.kernels import reference
from starquant_fx.operators import op
from starquant_fx.passes import Fuse, InsertTac, InsertTokenState
from starquant_fx.program import Program
from starquant_fx.recipes import get_recipe
from tests.small_models import KINDS, MASK, masked_ids, model
from tests.small_programs import captured, continued, relative, rewritten, until

LAYERS = {"llada": 3, "dream": 3, "odd": 1, "bert": 2, "modernbert": 2}
BLOCKS = {
    "llada": "model.transformer.blocks",
    "dream": "model.layers",
    "odd": "model.transformer.blocks",
    "modernbert": "model.layers",
    "bert": "bert.encoder.layer",
}


def states(program: Program, ids: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    return Tapped(program.module, layer_taps(program.graph)).states(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_are_what_the_layers_of_the_model_return(kind: str) -> None:
    denoiser = model(kind)
    seen: list[Tensor] = []

    def keep(module: nn.Module, arguments: Any, output: Any) -> None:
        seen.append(output if isinstance(output, Tensor) else output[0])

    blocks = denoiser.get_submodule(BLOCKS[kind])
    handles = [block.register_forward_hook(keep) for block in blocks.children()]
    ids = masked_ids(kind, (2, 11), 0.5)
    with torch.no_grad():
        expected = denoiser(ids).logits
    for handle in handles:
        handle.remove()
    logits, hidden, attention = states(captured(kind), ids)
    assert torch.equal(logits, expected)
    assert len(hidden) == len(attention) == len(seen) == LAYERS[kind]
    for layer, (tapped, returned) in enumerate(zip(hidden, seen, strict=True)):
        if kind == "bert":  # its layers end in a norm of the residual sum
            with torch.no_grad():
                tapped = blocks.get_submodule(f"{layer}.output.LayerNorm")(tapped)
        assert relative(tapped, returned.detach()) < 1e-6


@pytest.mark.parametrize("form", ["gates", "partition", None])
def test_no_form_of_the_graph_hides_a_tap_or_a_correction(form: str | None) -> None:
    ids = masked_ids("odd", (2, 11), 0.5)
    program = rewritten("odd", until("insert-tac"))
    expected = states(program, ids)
    given = program if form is None else continued(program, Fuse(form=form))
    (taps,) = layer_taps(given.graph)
    found = states(given, ids)
    assert relative(found[1][0], expected[1][0]) < 1e-4
    corrected = found[2][0]
    raw = Tapped(given.module, [dataclasses.replace(taps, correction=None)]).states(ids)[2][0]
    (node,) = program.nodes(op("compensate"))
    matrix, bias = (program.tensor(n) for n in node.args[1:])  # type: ignore[arg-type]
    assert relative(corrected, reference.compensate(raw, matrix, bias)) < 1e-6
    assert relative(corrected, raw) > 1e-2


@pytest.mark.parametrize("form", ["gates", "partition", None])
@pytest.mark.parametrize("per", ["state", "both"])
def test_a_correction_by_state_is_seen_in_every_form(per: str, form: str | None) -> None:
    ids = masked_ids("odd", (2, 11), 0.5)
    *before, last = until("insert-tac")
    assert isinstance(last, InsertTac)
    edges = (0.5,) if per == "both" else ()
    before = [
        dataclasses.replace(p, edges=edges) if isinstance(p, InsertTokenState) else p
        for p in before
    ]
    program = rewritten("odd", [*before, dataclasses.replace(last, per=per)])
    given = program if form is None else continued(program, Fuse(form=form))
    (node,) = given.nodes(op("compensate_by_state"))
    (taps,) = layer_taps(given.graph)
    tapped = Tapped(given.module, [taps])
    corrected = tapped.states(ids)[2][0]
    kept: dict[str, Tensor] = {}

    class Run(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            kept[n.name] = super().run_node(n)
            return kept[n.name]

    with torch.no_grad():
        Run(given.module).run(ids)
    expected = kept[node.name]
    if expected.dim() == 2:  # in the order of a partition
        partition: Any = node.all_input_nodes[0].args[0]
        order = next(kept[n.name] for n in partition.users if n.args[1] == 2)
        expected = reference.scatter(expected, order, ids)
    assert relative(corrected, expected) < 1e-6
    raw = Tapped(given.module, [dataclasses.replace(taps, correction=None)]).states(ids)[2][0]
    assert relative(corrected, raw) > 1e-2


def test_a_graph_without_a_residual_stream_is_refused() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(9, 8), nn.Linear(8, 9)

        def forward(self, input_ids: Tensor) -> Tensor:
            x = self.embed(input_ids)[:, None]
            mixed = torch.nn.functional.scaled_dot_product_attention(x, x, x)
            return self.head(mixed[:, 0])

    program = capture(Plain(), get_recipe("rtn-w8a8"), mask_token_id=MASK["odd"])
    with pytest.raises(CaptureError, match="no hidden state to measure"):
        layer_taps(program.graph)
