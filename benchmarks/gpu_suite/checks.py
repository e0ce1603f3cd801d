"""Correctness before speed: every kernel of the Triton target on the shapes of the models, what matters most first."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import torch

from gpu_suite import tile
from gpu_suite.comparing import SITE_BITS, Comparison, Verdict, close, near
from gpu_suite.head_checks import compare_float, compare_int8
from gpu_suite.product_checks import compare_groups, compare_product
from gpu_suite.products import ALL_BITS, Bits
from gpu_suite.rows import Check
from gpu_suite.sites import site_problem
from gpu_suite.specs import Form, GpuModel, Workload
from gpu_suite.whole_models import LIMITS, whole_model
from starquant_fx.errors import cause
from starquant_fx.kernels import reference

LARGEST = 2**29
"""Elements of a product that are compared at once; larger ones (the head at many tokens) take fewer tokens."""
FLIPPED = 0.05
"""Share of the 4-bit codes that may be one level off, because transforms in bf16 round before the quantizer does."""
FIRST = (4096, 32, 1024)
"""Numbers of tokens that matter most: those of the goals."""
HEAD = "head"
HEAD_BITS = Bits(8, 8)
SPLITS = (2, 4)
HEADLINE_FIRST, WHOLE_NEXT, REST_LAST = range(3)


@dataclasses.dataclass(frozen=True)
class Task:
    """One comparison.

    Attributes:
        name: What is compared.
        compare: Does it.
        order: What is compared before what: by kind and number of tokens.
    """

    name: str
    compare: Comparison
    order: tuple[int, int]


def checks(
    models: Sequence[GpuModel],
    work: Workload,
    device: torch.device,
    enough: Callable[[], bool] = lambda: False,
    seed: int = 3,
) -> Iterator[Check]:
    """Compares every kernel on every shape that the models run, and small models as a whole.

    Args:
        models: Their products, the head among them, give the shapes.
        work: Numbers of tokens; the small models.
        device: Where the kernels run.
        enough: Whether time is up; how much is left then is said in a check that did not run.
        seed: Of the draws.
    """
    tasks = planned_checks(models, work, torch.Generator(device).manual_seed(seed))
    for done, task in enumerate(tasks):
        if enough():
            why = "the time for checks was spent before"
            yield from (Check(late.name, None, why) for late in tasks[done:])
            return
        yield from _guarded(task, device)


def planned_checks(
    models: Sequence[GpuModel], work: Workload, generator: torch.Generator
) -> list[Task]:
    """All comparisons, what matters most first; what one works on is drawn when it runs."""
    counts = sorted(
        work.tokens, key=lambda count: FIRST.index(count) if count in FIRST else len(FIRST)
    )
    forms = list(dict.fromkeys(form for model in models for form in model.forms))
    heads = list(dict.fromkeys(Form(HEAD, *model.head) for model in models))
    tasks: list[Task] = []

    def add(name: str, compare: Comparison, kind: int, place: int) -> None:
        tasks.append(Task(name, compare, (min(kind + place, REST_LAST), place)))

    for place, count in enumerate(counts):
        for form in (*forms, *heads):
            few = max(1, min(count, LARGEST // form.rows))
            for bits in (HEAD_BITS,) if form.name == HEAD else ALL_BITS:
                kind = HEADLINE_FIRST if bits == ALL_BITS[0] or form.name == HEAD else REST_LAST
                name = f"tile_linear {bits} {_named(form)}, {few} tokens"
                call = functools.partial(compare_product, form, few, bits, generator)
                add(name, call, kind, place)
        for head in heads:
            rows = max(1, min(count // 2, LARGEST // head.rows))
            for operator, see in (
                ("tile_greedy", compare_float),
                ("tile_greedy_int8", compare_int8),
            ):
                call = functools.partial(see, head.size, rows, generator)
                add(f"{operator} {_named(head)}, {rows} rows", call, HEADLINE_FIRST, place)
        for features in dict.fromkeys(form.inputs for form in (*forms, *heads)):
            name = f"{features} channels, {count} tokens"
            for operator, compare in (("tile_prepare", _prepare), ("tile_site", _site)):
                call = functools.partial(compare, features, count, generator)
                add(f"{operator} {name}", call, HEADLINE_FIRST, place)
    few, bits = min(work.tokens), ALL_BITS[0]
    for form in forms:
        name = f"tile_linear {bits} {_named(form)}, {few} tokens"
        for split in SPLITS:
            call = functools.partial(compare_product, form, few, bits, generator, split)
            add(f"{name}, channels in {split} parts", call, WHOLE_NEXT, 0)
        call = functools.partial(compare_groups, form, few, bits, generator)
        add(f"{name}, scales of groups", call, WHOLE_NEXT, 0)
    small, shape = work.compared
    for model in small:
        for recipe in LIMITS:
            call = functools.partial(whole_model, model, shape, recipe, generator.device)
            add(f"{model.name} {recipe} beside the reference target, {shape}", call, WHOLE_NEXT, 0)
    return sorted(tasks, key=lambda task: task.order)


def _named(form: Form) -> str:
    return f"{form.name} {form.inputs}x{form.rows}"


def _guarded(task: Task, device: torch.device) -> Iterator[Check]:
    """Runs a comparison; one that cannot run is not passed on a machine that should run it."""
    if reason := tile.missing(device):
        yield Check(task.name, None, reason)
        return
    try:
        for part, (passed, detail) in task.compare().items():
            yield Check(f"{task.name}: {part}", passed, detail)
    except Exception as error:  # whatever a kernel raises is a failure with a reason
        yield Check(task.name, False, cause(error))


def _prepare(features: int, tokens: int, generator: torch.Generator) -> dict[str, Verdict]:
    made = site_problem(features, tokens, generator)
    rest, coefficients = made.prepare()
    expected = made.expected_prepare()
    return {"rest": close(rest, expected[0]), "coefficients": close(coefficients, expected[1])}


def _site(features: int, tokens: int, generator: torch.Generator) -> dict[str, Verdict]:
    """Codes at most one level off, few of them, and values that are as close as their steps allow."""
    made = site_problem(features, tokens, generator)
    codes, scale, zero = made.site(SITE_BITS)
    wide = made.expected_site().float()
    wanted, step, offset = reference.quantize_activation(wide, SITE_BITS, False, None)
    apart = (codes.to(torch.int16) - wanted.to(torch.int16)).abs()
    furthest, share = int(apart.max()), float((apart > 0).float().mean())
    values = (wanted.float() - offset) * step
    return {
        "codes": (
            furthest <= 1 and share <= FLIPPED,
            f"{100 * share:.2g} % differ, by {furthest} at most",
        ),
        "scale": close(scale, step),
        "values": (
            float((zero - offset).abs().max()) <= 1
            and near((codes.float() - zero) * scale, values),
            "values within two steps",
        ),
    }
