"""Runs a pipeline: checks its order first, verifies the graph after every pass, records what happened."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from starquant_fx.devices import making_float32, making_tensors_on
from starquant_fx.errors import InputError, PassError, StarQuantError
from starquant_fx.pass_base import Pass
from starquant_fx.program import PassRecord, Program, drop_unread_tensors, facts, note

Observer = Callable[[str, Program], None]
"""Called with ``capture`` or a pass's text form, and the program after it ran."""
CAPTURED = "capture"


def check_order(passes: Sequence[Pass]) -> None:
    """Checks the options of every pass, that none comes twice, and each after those it needs.

    Raises:
        PassError: An option is out of range, a pass is repeated or comes too early, or what it needs is missing.
    """
    seen: list[str] = []
    for one in passes:
        one.check_options()
        one.expect(
            one.name not in seen,
            "the pipeline has it twice",
            where=" -> ".join(p.name for p in passes),
            expected="every pass once",
            got=one.name,
        )
        missing = [name for name in one.after if name not in seen]
        early = [name for name in one.before if name in seen]
        if missing or early:
            expected = [f"{', '.join(missing)} before it"] * bool(missing)
            expected += [f"{', '.join(early)} after it"] * bool(early)
            raise PassError(
                f"pass {one.name} is out of order",
                where=" -> ".join(p.name for p in passes),
                expected="; ".join(expected),
                got=f"before it: {', '.join(seen) or 'nothing'}",
                hint="reorder the recipe's passes; `starquant-fx passes` lists what each one needs",
            )
        seen.append(one.name)


def check_observer(observe: object) -> None:
    """Raises an InputError for what cannot be called."""
    if observe is not None and not callable(observe):
        raise InputError(
            "observe is not usable",
            where="observe",
            expected="a callable (text, program), or None",
            got=repr(observe)[:100],
            hint="for example lambda text, program: print(text)",
        )


def run_passes(
    program: Program, passes: Sequence[Pass], observe: Observer | None = None
) -> Program:
    """Runs a pipeline over a program.

    Args:
        program: The captured program.
        passes: The pipeline.
        observe: Called before the first pass, with ``capture``, and after every pass.

    Returns:
        The rewritten program.

    Raises:
        PassError: The order is wrong, or a pass fails; the message names the pass and those already run.
        StarQuantError: A pass refused its input.
    """
    check_order(passes)
    if observe is not None:
        observe(CAPTURED, program)
    with making_tensors_on(program.device), making_float32():
        for one in passes:
            program = _run_pass(program, one)
            if observe is not None:
                observe(str(one), program)
    if program.weightless:
        program.module.recompile()
    program.fake_values.clear()
    return program


def _run_pass(program: Program, one: Pass) -> Program:
    """Runs one pass and records it.

    Raises:
        PassError: It fails.
        StarQuantError: It refused its input.
    """
    before = len(program.graph.nodes)
    known = {node: facts(node) for node in program.graph.nodes}
    start = time.perf_counter()
    try:
        one.requires(program)
        program = one.run(program)
        verify(program)
        one.ensures(program)
    except StarQuantError as error:
        error.during = _position(one, program)
        raise
    except Exception as error:
        failure = PassError(f"pass {one.name} failed: {type(error).__name__}: {error}")
        failure.during = _position(one, program)
        raise failure from error
    for node in program.graph.nodes:
        if node not in known:
            note(node, by=one.name)
    seconds = time.perf_counter() - start
    notes = tuple(program.findings.pop("notes", {}).values())
    program.records.append(PassRecord(str(one), seconds, before, len(program.graph.nodes), notes))
    return program


def _position(one: Pass, program: Program) -> str:
    return f"{one}; passes run before it: {', '.join(r.name for r in program.records) or 'none'}"


def verify(program: Program) -> None:
    """Removes dead code, lints, and propagates fake tensors; the output's rank and dtype must not change.

    Raises:
        PassError: The output changed.
    """
    graph = program.graph
    output = next(iter(reversed(graph.nodes)))
    expected = output.meta.get("val")
    graph.eliminate_dead_code(is_impure_node=_is_kept)
    graph.lint()
    drop_unread_tensors(program.module)
    if not program.weightless:  # nothing runs one that is
        program.module.recompile()
    propagate(program)
    got = output.args[0].meta["val"]
    if expected is not None and _form(expected) != _form(got):
        raise PassError(
            "the output of the graph changed",
            expected=f"{expected.dtype} {list(expected.shape)}",
            got=f"{got.dtype} {list(got.shape)}",
        )
    output.meta["val"] = got


def _form(value: Tensor) -> tuple[object, ...]:
    """Dtype and sizes; sizes that are only known at run time are None."""
    return value.dtype, *(size if isinstance(size, int) else None for size in value.shape)


def _is_kept(node: fx.Node) -> bool:
    """Inputs and outputs stay, and the token states, which later passes read."""
    return node.op in ("placeholder", "output") or facts(node).get("part") in ("state", "states")


def propagate(program: Program) -> None:
    """Recomputes every node's fake value from the placeholders'."""
    values = [n.meta["val"] for n in program.graph.nodes if n.op == "placeholder"]
    with torch.no_grad():
        _CachedFakeProp(program).propagate_dont_convert_inputs(*values)


class _CachedFakeProp(FakeTensorProp):
    """Computes every kind of call once: fake values with the same metadata are one object, so that alike layers share.

    Args:
        program: The program; it keeps what is known from one pass to the next.
    """

    def __init__(self, program: Program) -> None:
        super().__init__(program.module, program.fake_mode)
        self._program = program
        self._known = program.fake_values

    def run_node(self, n: fx.Node) -> object:
        if n.op == "output":
            return super().run_node(n)
        if n.op not in ("get_attr", "placeholder"):
            key = (n.op, n.target, _key(n.args), _key(n.kwargs))
            if key not in self._known:
                super().run_node(n)
                self._known[key] = self._shared(n.meta["val"])
            n.meta["val"] = self._known[key]
        else:
            if "val" not in n.meta:
                n.meta["val"] = self._program.fake(self._program.tensor(n))
            n.meta["val"] = self._shared(n.meta["val"])
        return n.meta["val"]

    def _shared(self, value: Any) -> Any:
        """The first value with this one's metadata."""
        return self._known.setdefault(_metadata(value), value)


def _key(argument: object) -> object:
    """An argument of a call, to look up: a node stands for its value, which the table keeps alive."""
    if isinstance(argument, fx.Node):
        return fx.Node, id(argument.meta["val"])
    if isinstance(argument, (tuple, list)):
        return tuple(_key(one) for one in argument)
    if isinstance(argument, dict):
        return tuple((name, _key(one)) for name, one in argument.items())
    if isinstance(argument, slice):
        return slice, _key((argument.start, argument.stop, argument.step))
    return type(argument), argument


def _metadata(value: object) -> object:
    """All that a fake value has, to compare: nothing is guarded on."""
    if isinstance(value, (tuple, list)):
        return tuple(_metadata(one) for one in value)
    if isinstance(value, Tensor):
        sizes = (*value.shape, *value.stride(), value.storage_offset())
        return (value.dtype, value.device, *(str(size) for size in sizes))
    return type(value), str(value)
