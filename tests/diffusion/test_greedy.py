"""Temperature 0: what is drawn, what is refused, and that a kernel chooses as the published code does."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from starquant_fx.diffusion import dream_generate, llada_generate
from starquant_fx.errors import StarQuantError
from starquant_fx.kernels import cpu
from tests.diffusion.fakes import EOS, EOT, MASK, PROMPT, SHORT, VOCABULARY, Denoiser

GREEDY: dict[str, dict[str, Any]] = {
    "llada": SHORT["llada"],
    "Dream": SHORT["Dream"] | {"alg": "maskgit_plus"},
}
SAMPLERS: dict[str, Callable[..., Tensor]] = {"llada": llada_generate, "Dream": dream_generate}


@pytest.mark.parametrize("kind", SAMPLERS)
def test_nothing_is_drawn_at_temperature_0(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a random number was drawn")

    model = Denoiser(kind).eval()
    for name in ("rand", "multinomial", "rand_like", "randn"):
        monkeypatch.setattr(torch, name, refuse)
    state = torch.random.get_rng_state()
    SAMPLERS[kind](model, PROMPT, **GREEDY[kind])
    assert torch.equal(state, torch.random.get_rng_state())
    with pytest.raises(AssertionError, match="a random number was drawn"):
        SAMPLERS[kind](model, PROMPT, **GREEDY[kind], temperature=0.1)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llada", {}),
        ("llada", {"temperature": 0.5}),
        ("llada", {"logits_eos_inf": True}),
        ("Dream", {}),
        ("Dream", {"temperature": 0.5}),
    ],
)
@pytest.mark.parametrize("column", [0, EOS])
def test_a_nan_is_refused(kind: str, options: dict[str, Any], column: int) -> None:
    model = Denoiser(kind).eval()
    with torch.no_grad():
        model.table[5, MASK, column] = torch.nan
    with pytest.raises(StarQuantError, match="contain NaN") as refusal:
        SAMPLERS[kind](model, PROMPT, **GREEDY[kind], **options)
    assert refusal.value.where == "denoising step 1"
    assert refusal.value.got == "1 positions with NaN"


class Coarse(Denoiser):
    """Logits in bfloat16 and close together, so that many tokens and positions tie."""

    def forward(self, *arguments: Any, **options: Any) -> SimpleNamespace:
        return SimpleNamespace(
            logits=(super().forward(*arguments, **options).logits / 8).bfloat16()
        )


@pytest.mark.skipif(cpu.unavailable() is not None, reason=str(cpu.unavailable()))
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llada", {}),
        ("llada", {"remasking": "random"}),
        ("llada", {"cfg_scale": 1.5}),
        ("llada", {"logits_eos_inf": True, "eos_id": 3}),
        ("llada", {"confidence_eos_eot_inf": True, "eos_id": 3, "eot_id": EOT}),
        ("Dream", {}),
        ("Dream", {"top_p": 0.6}),
        ("Dream", {"alg": "topk_margin"}),
        ("Dream", {"alg": "entropy", "top_k": 4}),
    ],
)
def test_the_kernel_generates_what_torch_does(
    kind: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = torch.randint(0, VOCABULARY - 3, (4, 6), generator=torch.Generator().manual_seed(1))
    prompt[:, ::3] = MASK

    def states() -> Tensor:
        seen: list[Tensor] = []
        SAMPLERS[kind](
            Coarse(kind).eval(),
            prompt,
            on_step=lambda step, total, ids, confidence: seen.extend((ids, confidence)),
            **{**GREEDY[kind], "generator": torch.Generator().manual_seed(2), **options},
        )
        return torch.stack([x.double() for x in seen])

    found = states()
    module = importlib.import_module(cpu.greedy.__module__)
    monkeypatch.setattr(module, "unavailable", lambda: "none")
    assert torch.equal(found, states())
