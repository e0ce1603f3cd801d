"""``starquant_fx.compile`` on every kind of model: what comes out, and that the model stays as it was."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import starquant_fx
from starquant_fx.compiled import CompiledModel
from starquant_fx.lowering import choose_target
from starquant_fx.passes import fit_sgat
from starquant_fx.program import Program
from starquant_fx.sizes import shown_size
from tests.compile_cases import CLOSE, compiled, fresh, made, small, texts
from tests.small_models import masked_ids, model, randomize
from tests.small_programs import distance, logits

# What comes out


def test_star_on_llada() -> None:
    one = compiled("llada", "star-w4a4")
    rows = {row.site: row for row in one.report.sites}
    assert len(rows) == 12
    block = "model.transformer.blocks.1."
    assert [rows[f"{block}{n}"].roles for n in ("q_proj", "attn_out", "ff_proj", "ff_out")] == [
        ("q", "k", "v"),
        ("o",),
        ("gate", "up"),
        ("down",),
    ]
    for row in rows.values():
        assert row.bits == "w4a4"
        assert row.transform.startswith("kronecker ")
        assert row.error is not None
        assert 0 < row.error < 0.2
        assert row.leakage is not None
        assert (row.leakage > 0) == (row.gates > 0)
        assert bool(row.tac) == (row.roles == ("o",))
    assert any(row.gates for row in rows.values())
    plain = {row.site: row.error for row in compiled("llada", "rtn-w4a4").report.sites}
    assert all(row.error < plain[name] for name, row in rows.items())  # type: ignore[operator]
    assert one.report.unquantized == (
        ("model.transformer.ff_out", "ignored by the recipe (role:head)"),
    )
    assert [text for text, _ in one.report.seconds] == [str(p) for p in one.recipe.passes]
    ids = masked_ids("llada", (3, 11), 0.5)
    got = logits(one, ids)
    assert got.shape == (3, 11, 160)
    assert distance(got, logits(model("llada"), ids)) < 1


def test_the_report_is_readable_and_complete() -> None:
    report = compiled("llada", "star-w4a4").report
    text = str(report)
    used = report.calibration
    assert used["kept"] <= used["tokens"]
    assert used["bytes"] == 4 * used["kept"] * sum(
        site.features for site in compiled("llada", "star-w4a4").program.quantized_sites()
    )
    assert f"{used['sequences']} sequences" in text
    shared = "model.transformer.blocks"
    assert f"sites of {shared}" in text
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    for row in report.sites:
        line = lines[row.site.removeprefix(f"{shared}.")]
        assert row.transform in line
        assert " ".join(row.roles) in line


def test_the_report_of_a_large_model_fits_80_columns() -> None:
    report = compiled("llada", "star-w4a4").report
    tac = {"tac_before_original": 0.00049, "tac_after_original": 0.00041}
    sites = tuple(
        dataclasses.replace(row, transform="kronecker 128x96", gates=96, leakage=5.2e-06, tac=tac)
        for row in report.sites
    )
    console = Console(width=80, file=io.StringIO())
    console.print(dataclasses.replace(report, sites=sites))
    assert isinstance(console.file, io.StringIO)
    assert "5.2e-06  -16.3%" in console.file.getvalue()


def test_the_only_site_of_a_report_keeps_its_name() -> None:
    report = compiled("llada", "star-w4a4").report
    one = dataclasses.replace(report, sites=report.sites[:1])
    assert report.sites[0].site in str(one)


def test_the_report_names_what_was_left_alone() -> None:
    report = compiled("llada", "star-w4a4").report
    text = str(report)
    assert "not quantized: model.transformer.ff_out (ignored by the recipe (role:head))" in text
    before, after = shown_size(report.bytes_before), shown_size(report.bytes_after)
    assert f"weights: {before} (bf16) -> {after}" in text
    values = report.to_dict()
    assert values["recipe"] == "star-w4a4"
    assert values["target"] == choose_target("auto", torch.device("cpu"))
    assert len(values["sites"]) == 12


def test_bytes_are_those_of_the_tensors() -> None:
    report = compiled("odd", "rtn-w4a4").report
    parameters = sum(p.numel() for p in model("odd").parameters())
    assert report.bytes_before == 2 * parameters
    linears = [
        m for n, m in model("odd").named_modules() if isinstance(m, nn.Linear) and "blocks" in n
    ]
    packed = sum(-(-m.out_features // 64) * 64 * -(-m.in_features // 8) * 4 for m in linears)
    channels = sum(m.out_features for m in linears) * 8  # a scale and a column sum
    norms = sum(p.numel() for n, p in model("odd").named_parameters() if "norm" in n)
    head_and_embedding = 2 * 2 * 61 * 36
    # Gains are folded: those of the blocks are gone, the last one's too.
    assert report.bytes_after == packed + channels + head_and_embedding
    assert norms > 0


@pytest.mark.parametrize("kind", ["odd", "dream", "bert", "modernbert"])
def test_eight_bits_stay_close_to_the_model(kind: str) -> None:
    one = compiled(kind, "rtn-w8a8")
    for shape in ((3, 12), (1, 1), (2, 5)):
        ids = masked_ids(kind, shape, 0.5, seed=3)
        assert distance(logits(one, ids), logits(model(kind), ids)) < CLOSE
    assert all(row.error is not None and row.error < 1e-3 for row in one.report.sites)
    names = {n for row in one.report.sites for n in row.linears} | {
        n for n, _ in one.report.unquantized
    }
    linears = {n for n, m in model(kind).named_modules() if isinstance(m, nn.Linear)}
    assert len(names) == len(linears)
    assert all(reason for _, reason in one.report.unquantized)


@pytest.mark.parametrize(
    ("kind", "roles"),
    [
        ("bert", {"q k v", "o", "up", "down", "dense"}),
        ("modernbert", {"qkv", "o", "gate_up", "down", "dense"}),
    ],
)
def test_masked_language_models_of_transformers(kind: str, roles: set[str]) -> None:
    report = compiled(kind, "rtn-w8a8").report
    assert {" ".join(row.roles) for row in report.sites} == roles
    (head,) = report.unquantized
    assert head[0].endswith("decoder")


def test_star_works_on_a_model_of_transformers() -> None:
    one = fresh("bert", "star-w4a4")
    ids = masked_ids("bert", (3, 12), 0.5)
    assert distance(logits(one, ids), logits(model("bert"), ids)) < 0.5
    assert sum(row.error or 1 for row in one.report.sites) < 0.1
    assert sum(bool(row.tac) for row in one.report.sites) == 2


def test_bits_by_site_are_reported() -> None:
    recipe = dataclasses.replace(
        small("rtn-w4a4"), overrides=(("role:down", "w8a8"),), ignore=("role:o",)
    )
    report = fresh("odd", recipe).report
    assert report.recipe == "rtn-w4a4[role:down=w8a8]"
    assert {row.roles: row.bits for row in report.sites} == {
        ("q", "k", "v"): "w4a4",
        ("gate", "up"): "w4a4",
        ("down",): "w8a8",
        ("head",): "w4a4",
    }
    assert report.unquantized == (
        ("model.transformer.blocks.0.attn_out", "ignored by the recipe (role:o)"),
    )


def test_a_basis_that_was_not_fitted_is_reported_too() -> None:
    report = fresh("odd", small("star-w4a4").without("fit-sgat")).report
    assert all(row.transform.startswith("kronecker") for row in report.sites)
    assert all(row.leakage is None for row in report.sites)


# The same again


@pytest.mark.parametrize("name", ["star-w4a4", "rtn-w8a8"])
def test_the_same_call_gives_the_same_codes(name: str) -> None:
    first, again = compiled("odd", name), fresh("odd", name)
    assert made(first).keys() == made(again).keys()
    assert all(torch.equal(t, made(again)[n]) for n, t in made(first).items())
    ids = masked_ids("odd", (3, 11), 0.5)
    assert torch.equal(logits(first, ids), logits(again, ids))


def test_another_seed_gives_other_codes() -> None:
    other = fresh("odd", small("star-w4a4").seeded(5))
    packed = {n: t for n, t in made(compiled("odd", "star-w4a4")).items() if n.endswith(".packed")}
    assert any(not torch.equal(t, made(other)[n]) for n, t in packed.items())


def test_the_model_is_not_changed() -> None:
    original = model("odd")
    before = {n: t.clone() for n, t in original.state_dict().items()}
    pointers = {n: p.data_ptr() for n, p in original.named_parameters()}
    one = fresh("odd", "star-w4a4")
    logits(one, masked_ids("odd", (2, 5), 0.5))
    after = original.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[n], t) for n, t in before.items())
    assert {n: p.data_ptr() for n, p in original.named_parameters()} == pointers
    assert all(p.requires_grad and p.grad is None for p in original.parameters())


def test_train_and_eval_modes_come_back_module_by_module() -> None:
    built = trained()
    built.train()
    built.quiet.eval()
    starquant_fx.compile(built, small("rtn-w8a8"), calibration=texts("odd"), mask_token_id=60)
    assert {n for n, m in built.named_modules() if not m.training} == {"quiet"}
    built.eval()


def trained() -> Any:
    """A model whose answer depends on the mode."""

    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model("odd")
            self.noisy, self.quiet = nn.Dropout(0.5), nn.Dropout(0.5)

        def forward(self, input_ids: Tensor) -> Tensor:
            out: Tensor = self.quiet(self.noisy(self.inner(input_ids).logits))
            return out

    return Noisy()


def test_a_model_in_train_mode_is_compiled_as_in_eval_mode() -> None:
    built = trained()
    built.train()
    one = starquant_fx.compile(built, small("rtn-w8a8"), calibration=texts("odd"), mask_token_id=60)
    built.eval()
    ids = masked_ids("odd", (2, 5), 0.5)
    assert distance(logits(one, ids), logits(built, ids)) < CLOSE
    model("odd").eval()


# Where calibration comes from


class Words:
    """A tokenizer of three-letter words that knows its mask token."""

    eos_token_id, sep_token_id, mask_token_id = 2, None, 60

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [3 + sum(map(ord, word)) % 50 for word in text.split()]}


def test_calibration_by_texts_and_a_mask_token_from_the_tokenizer() -> None:
    built = copied_without_mask_token()
    one = starquant_fx.compile(
        built, small("rtn-w8a8"), calibration=["once upon a time"] * 20, tokenizer=Words()
    )
    assert one.program.mask_token_id == 60
    assert all(row.error is not None and row.error < 1e-3 for row in one.report.sites)


def copied_without_mask_token() -> nn.Module:
    class Anonymous(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model("odd")

        def forward(self, input_ids: Tensor) -> Tensor:
            out: Tensor = self.inner(input_ids).logits
            return out

    return Anonymous()


def test_without_calibration_the_model_calibrates_itself() -> None:
    one, again = (fresh("odd", "star-w4a4", calibration=None) for _ in range(2))
    assert all(torch.equal(t, made(again)[n]) for n, t in made(one).items())
    assert all(row.error is not None for row in one.report.sites)


def test_every_pass_can_be_observed() -> None:
    seen: list[str] = []

    def observe(text: str, program: Program) -> None:
        seen.append(text)

    one = fresh("odd", "rtn-w8a8", observe=observe)
    assert seen == ["capture", *(str(p) for p in one.recipe.passes)]


# Other models


def test_a_bfloat16_model_stays_one() -> None:
    built = type(model("odd"))(model("odd").config)
    randomize(built, seed=3).to(torch.bfloat16).eval()
    one = starquant_fx.compile(built, small("star-w8a8"), calibration=texts("odd"))
    ids = masked_ids("odd", (3, 9), 0.5)
    got, expected = logits(one, ids), logits(built, ids)
    assert got.dtype == torch.bfloat16
    assert distance(got.float(), expected.float()) < 0.2


class Twice(nn.Module):
    """One linear that is called twice, and one that reads a pooled sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.shared, self.pooled, self.head = (
            nn.Linear(16, 16),
            nn.Linear(16, 16),
            nn.Linear(16, 20),
        )

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        q = self.shared(x)
        x = x + nn.functional.scaled_dot_product_attention(q, q, q)
        x = x + self.shared(x).tanh() + self.pooled(x.mean(1))[:, None]
        out: Tensor = self.head(x)
        return out


def test_shared_linears_and_linears_off_the_tokens() -> None:
    built = randomize(Twice(), seed=1).eval()
    ids = torch.randint(0, 19, (8, 12), generator=torch.Generator().manual_seed(0))
    one = starquant_fx.compile(
        built, small("star-w8a8").without("insert-tac"), calibration=ids, mask_token_id=19
    )
    assert sorted(row.site for row in one.report.sites) == ["shared", "shared_call2"]
    reasons = dict(one.report.unquantized)
    assert "not one row a token" in reasons["pooled"]
    assert distance(logits(one, ids), logits(built, ids)) < 0.1


class Mixed(nn.Module):
    """Multiplies by weights in ways that are no linear."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.matrix = nn.Parameter(torch.empty(8, 8))
        self.conv = nn.Conv1d(8, 8, 1)
        self.head = nn.Linear(8, 11)
        randomize(self, seed=3)

    def forward(self, input_ids: Tensor) -> Tensor:
        h = self.embed(input_ids)
        q, k, v = (t.unsqueeze(1) for t in self.qkv(h).chunk(3, -1))
        h = self.out(torch.nn.functional.scaled_dot_product_attention(q, k, v).squeeze(1))
        h = h @ self.matrix.T + self.conv(h.mT).mT
        logits: Tensor = self.head(h)
        return logits


def test_weights_that_no_linear_reads_are_listed_with_the_reason() -> None:
    ids = torch.arange(10).reshape(2, 5)
    done = starquant_fx.compile(Mixed(), "rtn-w8a8", calibration=ids, mask_token_id=10)
    left = dict(done.report.unquantized)
    assert set(left) == {"head", "matrix", "conv.weight"}
    assert "not a linear" in left["matrix"]
    assert "not a linear" in left["conv.weight"]


def test_calibration_of_one_state_is_told_in_the_report() -> None:
    masked = torch.full((4, 8), 60)
    recipe = small("star-w8a8")
    still = dataclasses.replace(recipe.calibration, rollout_steps=0)
    done = starquant_fx.compile(
        model("odd"),
        dataclasses.replace(recipe, calibration=still),
        calibration=masked,
    )
    assert any("no tokens of state 0 of 2" in note for note in done.report.notes)


def test_a_cache_gives_the_same_model_without_fitting_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled_again() -> CompiledModel:
        recipe, ids = small("star-w4a4"), masked_ids("odd", (4, 12), 0.0)
        return starquant_fx.compile(model("odd"), recipe, calibration=ids, cache=tmp_path / "fits")

    first = compiled_again()
    monkeypatch.setattr(fit_sgat, "fit_site", None)  # a call would fail
    second = compiled_again()
    before, after = first.program.tensors(), second.program.tensors()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
