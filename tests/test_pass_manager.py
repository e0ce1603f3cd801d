from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import Tensor, fx
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from starquant_fx.errors import CalibrationError, PassError
from starquant_fx.operators import op
from starquant_fx.pass_base import Pass, Preserves, parse_pass
from starquant_fx.pass_manager import check_order, run_passes, verify
from starquant_fx.passes import (
    REGISTRY,
    AssignRoles,
    Canonicalize,
    FoldSgat,
    Fuse,
    InsertPartition,
    InsertQuantizers,
    InsertSgat,
    InsertTokenState,
)
from starquant_fx.program import LINEAR, Program, facts
from tests.small_models import masked_ids
from tests.small_programs import captured, logits, quick, site_of

aten = torch.ops.aten
BEGINNING = (Canonicalize(), AssignRoles())


@dataclasses.dataclass(frozen=True)
class Edit(Pass):
    """Does what a function says."""

    name: ClassVar[str] = "edit"
    preserves: ClassVar[Preserves] = Preserves.NOT
    what: Callable[[Program], object] = lambda program: None
    promise: Callable[[Program], bool] = lambda program: True

    def run(self, program: Program) -> Program:
        self.what(program)
        return program

    def ensures(self, program: Program) -> None:
        self.expect(
            self.promise(program), "a promise is broken", where="graph", expected="kept", got="not"
        )


def head(program: Program) -> fx.Node:
    return program.nodes(LINEAR)[-1]


# Order and options


def test_a_pass_comes_only_once() -> None:
    with pytest.raises(PassError, match="canonicalize: the pipeline has it twice"):
        check_order((Canonicalize(), AssignRoles(), Canonicalize()))


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("fit-sgat{batch=0}", "batch"),
        ("fit-sgat{lr=-1.0}", "lr"),
        ("fit-sgat{epochs=-3}", "epochs"),
        ("fit-sgat{seed=-1}", "seed"),
        ("fit-sgat{lr=1e400}", "lr"),
        ("insert-sgat{seed=99999999999999999999}", "seed"),
        ("insert-sgat{structure=blok}", "structure"),
        ("insert-sgat{start=gauss}", "start"),
        ("insert-sgat{rank=-1}", "rank"),
        ("insert-sgat{gated=o+dwon}", "gated"),
        ("insert-tac{block=0}", "block"),
        ("insert-tac{samples=0}", "samples"),
        ("insert-tac{estimator=foo}", "estimator"),
        ("insert-tac{reference=foo}", "reference"),
        ("insert-tac{shrink=2.0}", "shrink"),
        ("insert-tac{per=step}", "per"),
        ("estimate-means{prior=-16.0}", "prior"),
        ("insert-token-state{edges=(0.5,0.2)}", "edges"),
        ("fuse{form=x}", "form"),
    ],
)
def test_options_are_checked_before_anything_runs(text: str, where: str) -> None:
    one = parse_pass(text, REGISTRY)
    ran: list[str] = []
    with pytest.raises(PassError) as caught:
        run_passes(captured("odd"), (Edit(ran.append), one))  # type: ignore[arg-type]
    assert caught.value.where == where
    assert one.name in str(caught.value)
    assert not ran


def test_a_pass_before_what_it_needs_is_refused() -> None:
    with pytest.raises(PassError, match="pass insert-partition is out of order") as caught:
        check_order((*BEGINNING, InsertPartition()))
    text = str(caught.value)
    assert "canonicalize -> assign-roles -> insert-partition" in text
    assert "insert-token-state before it" in text
    assert "before it: canonicalize, assign-roles" in text


def test_a_pass_after_one_that_it_must_precede_is_refused() -> None:
    late = (*BEGINNING, InsertTokenState(), InsertQuantizers(), InsertPartition())
    with pytest.raises(PassError, match="pass insert-partition is out of order") as caught:
        check_order(late)
    assert "insert-quantizers after it" in str(caught.value)


def test_the_first_pass_may_need_nothing() -> None:
    with pytest.raises(PassError) as caught:
        check_order((AssignRoles(),))
    assert "before it: nothing" in str(caught.value)


@pytest.mark.parametrize("name", ["star-w4a4", "rtn-w4a4", "star-paper-w4a4"])
def test_named_recipes_are_in_order_and_no_neighbours_that_depend_can_be_swapped(name: str) -> None:
    passes = list(quick(name).passes)
    check_order(passes)
    for i, (one, two) in enumerate(itertools.pairwise(passes)):
        swapped = [*passes[:i], two, one, *passes[i + 2 :]]
        if one.name in two.after or two.name in one.before:
            with pytest.raises(PassError, match="out of order"):
                check_order(swapped)


def test_the_order_is_checked_before_anything_runs() -> None:
    program = captured("odd")
    nodes = list(program.graph.nodes)
    ran: list[str] = []
    with pytest.raises(PassError, match="out of order"):
        run_passes(program, (Canonicalize(), Fuse()), lambda text, _: ran.append(text))
    assert ran == []
    assert program.records == []
    assert list(program.graph.nodes) == nodes


def test_passes_name_passes_that_exist() -> None:
    for one in REGISTRY.values():
        assert set(one.after) | set(one.before) <= set(REGISTRY)
        assert one.name not in (*one.after, *one.before)


# What is recorded


def test_every_pass_is_recorded_and_observed() -> None:
    passes = quick("star-w4a4").passes
    seen: list[tuple[str, int]] = []
    program = captured("odd")
    count = len(program.graph.nodes)
    run_passes(program, passes, lambda text, p: seen.append((text, len(p.graph.nodes))))
    assert seen.pop(0) == ("capture", count)
    assert [r.name for r in program.records] == [str(p) for p in passes] == [t for t, _ in seen]
    for record, (_, after) in zip(program.records, seen, strict=True):
        assert record.nodes_before == count
        assert record.nodes_after == after
        assert record.seconds > 0
        count = after


def test_nodes_know_the_pass_that_made_them() -> None:
    program = captured("odd")
    before = set(program.graph.nodes)
    run_passes(program, (*BEGINNING, InsertTokenState(), InsertPartition(), InsertSgat()))
    makers = {facts(n)["by"] for n in program.graph.nodes if n not in before}
    assert makers == {"canonicalize", "insert-token-state", "insert-partition", "insert-sgat"}
    kept = [n for n in program.graph.nodes if n in before]
    assert kept
    assert all("by" not in facts(n) for n in kept)


def test_what_a_pass_wants_to_be_read_goes_into_its_record() -> None:
    def speak(program: Program) -> None:
        program.findings["notes"] = {"a": "read this", "b": "and this"}

    program = run_passes(captured("odd"), (Edit(speak), Canonicalize()))
    assert program.records[0].notes == ("read this", "and this")
    assert program.records[1].notes == ()
    assert "notes" not in program.findings


# What is verified


def test_dead_code_and_unread_tensors_go_but_the_state_stays() -> None:
    program = run_passes(captured("odd"), (*BEGINNING, InsertTokenState()))
    (linear,) = program.site_nodes(site_of(program, "o"), "linear")
    weight = str(linear.args[1].target)  # type: ignore[union-attr]
    assert weight in dict(program.module.named_buffers())
    linear.replace_all_uses_with(linear.args[0])  # type: ignore[arg-type]
    verify(program)
    assert linear not in program.graph.nodes
    assert weight not in dict(program.module.named_buffers())
    assert len(program.nodes(op("token_state"))) == 1  # nothing reads it yet


def change_dtype(program: Program) -> None:
    node = head(program)
    program.follow(node, aten._to_copy.default, (node,)).kwargs = {"dtype": torch.bfloat16}


def change_rank(program: Program) -> None:
    program.follow(head(program), aten.select.int, (head(program), 0, 0))


def change_width(program: Program) -> None:
    program.follow(head(program), aten.slice.Tensor, (head(program), 2, 0, 5))


@pytest.mark.parametrize("change", [change_dtype, change_rank, change_width])
def test_the_output_keeps_dtype_and_shape(change: Callable[[Program], None]) -> None:
    with pytest.raises(PassError, match="the output of the graph changed") as caught:
        run_passes(captured("odd"), (Canonicalize(), Edit(change)))
    text = str(caught.value)
    assert "float32" in text
    assert "edit" in text
    assert "canonicalize" in text


def test_an_error_inside_a_pass_names_the_pass_and_those_before_it() -> None:
    def fail(program: Program) -> None:
        raise KeyError("no such thing")

    with pytest.raises(PassError, match="pass edit failed: KeyError: 'no such thing'") as caught:
        run_passes(captured("odd"), (*BEGINNING, Edit(fail)))
    assert "canonicalize, assign-roles" in str(caught.value)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_refusal_inside_a_pass_keeps_its_class_and_names_the_pass_and_those_before_it() -> None:
    def refuse(program: Program) -> None:
        raise CalibrationError("the data is odd", where="row 3")

    def lose_a_part(program: Program) -> None:
        program.site_node(next(iter(program.sites.values())), "rotate")

    for refusal, kind in ((refuse, CalibrationError), (lose_a_part, PassError)):
        with pytest.raises(kind) as caught:
            run_passes(captured("odd"), (*BEGINNING, Edit(refusal)))
        text = str(caught.value)
        assert "edit" in text
        assert "canonicalize, assign-roles" in text


def test_a_malformed_graph_is_caught_after_the_pass_that_made_it() -> None:
    def use_before_definition(program: Program) -> None:
        first, last = program.nodes(LINEAR)[0], head(program)
        with program.graph.inserting_before(first):
            early = program.graph.call_function(aten.neg.default, (last,))
        program.follow(last, aten.add.Tensor, (last, early))

    with pytest.raises(PassError, match="pass edit failed: RuntimeError"):
        run_passes(captured("odd"), (Canonicalize(), Edit(use_before_definition)))


def test_shapes_that_do_not_fit_are_caught_after_the_pass_that_made_them() -> None:
    def spoil(program: Program) -> None:
        program.follow(head(program), aten.view.default, (head(program), [3, 3]))

    with pytest.raises(PassError, match="pass edit failed"):
        run_passes(captured("odd"), (Canonicalize(), Edit(spoil)))


def test_promises_are_checked_on_the_result() -> None:
    def add_node(program: Program) -> None:
        program.follow(head(program), aten.neg.default, (head(program),))

    def found(program: Program) -> bool:
        (negated,) = program.nodes(aten.neg.default)[-1:]
        return isinstance(negated.meta.get("val"), Tensor)  # verified before it is asked

    run_passes(captured("odd"), (Edit(add_node, found),))
    with pytest.raises(PassError, match="pass edit: a promise is broken"):
        run_passes(captured("odd"), (Edit(add_node, lambda program: False),))


def test_values_follow_a_rewrite_of_their_inputs() -> None:
    """Fake values are cached by operator and inputs; a changed input must not keep an old one."""
    program = captured("odd")
    verify(program)
    norm = program.nodes(aten.rms_norm.default)[0]
    assert norm.meta["val"].dtype == torch.float32
    with program.graph.inserting_before(norm):
        wide = program.graph.call_function(aten._to_copy.default, (norm.args[0],))
    wide.kwargs = {"dtype": torch.float64}
    norm.update_arg(0, wide)
    program.follow(norm, aten._to_copy.default, (norm,)).kwargs = {"dtype": torch.float32}
    verify(program)
    assert norm.meta["val"].dtype == torch.float64
    assert program.nodes(LINEAR)[0].meta["val"].dtype == torch.float32


def test_verify_computes_again_no_more_than_what_changed_its_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = captured("odd")
    verify(program)
    computed: list[fx.Node] = []
    run = FakeTensorProp.run_node

    def counted(prop: FakeTensorProp, n: fx.Node) -> object:
        computed.append(n)
        return run(prop, n)

    monkeypatch.setattr(FakeTensorProp, "run_node", counted)
    norm = program.nodes(aten.rms_norm.default)[0]
    negated = program.follow(norm, aten.neg.default, (norm,))
    verify(program)
    assert {n for n in computed if n.op == "call_function"} == {negated}


def test_a_failed_pipeline_leaves_the_model_and_other_programs_alone() -> None:
    ids = masked_ids("odd", (2, 5), 0.5)
    first = captured("odd")
    before = logits(first.module, ids)
    with pytest.raises(PassError):
        run_passes(
            captured("odd", "rtn-w4a4"),
            (*BEGINNING, InsertQuantizers(), FoldSgat(), Edit(change_rank)),
        )
    assert torch.equal(logits(captured("odd").module, ids), before)
