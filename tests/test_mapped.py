"""Values of mapped tensors: they are the tensor's, whatever became of the file, and reading them loads no page."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import starquant_fx
from starquant_fx import mapped
from starquant_fx.fingerprint import fingerprint
from starquant_fx.mapped import copied, not_finite, pieces
from tests.compile_cases import small
from tests.models import checkpoints

AROUND = 32
"""Pages that Linux may load beside one that is touched, before and after a tensor."""
linux = pytest.mark.skipif(not mapped.PAGES.exists(), reason="only Linux tells about pages")


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def opened(tensor: Tensor, path: Path) -> Tensor:
    """The tensor as a map of a new file."""
    save_file({"a": tensor}, path)
    with safe_open(path, framework="pt") as file:
        found: Tensor = file.get_tensor("a")
    return found


def joined(tensor: Tensor) -> Tensor:
    return torch.cat([piece.clone() for piece in pieces(tensor)]).view(tensor.shape)


def loaded_pages(tensor: Tensor) -> int:
    """How many of the tensor's pages this process has in memory."""
    first, last = (
        address // mmap.PAGESIZE
        for address in (tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes - 1)
    )
    with mapped.PAGES.open("rb", buffering=0) as file:
        file.seek(first * 8)
        entries = np.frombuffer(file.read((last + 1 - first) * 8), np.uint64)
    return int((entries >> np.uint64(63)).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.uint8])
@pytest.mark.parametrize("shape", [(0,), (), (3, 5), (3, 700_001)])
def test_pieces_are_the_values(dtype: torch.dtype, shape: tuple[int, ...], tmp_path: Path) -> None:
    made = (random(*shape) * 9).abs().to(dtype)
    tensors = [made, opened(made, tmp_path / "a.safetensors")]
    tensors += [made.repeat(1, 2)[:, ::2]] if len(shape) == 2 else []
    for tensor in tensors:
        found = [piece.clone() for piece in pieces(tensor)]
        assert {piece.dtype for piece in found} == {dtype}
        assert max(piece.nbytes for piece in found) <= mapped.PIECE
        assert torch.equal(torch.cat(found).view(shape), tensor)
        copy = copied(tensor, torch.float16, tensor.device)
        assert torch.equal(copy, tensor.to(torch.float16))


@linux
def test_looking_at_a_map_loads_none_of_it(tmp_path: Path) -> None:
    tensor = opened(random(3, 1 << 20), tmp_path / "a.safetensors")
    before = loaded_pages(tensor)  # those beside the header
    assert not_finite(tensor) == 0
    assert fingerprint({"a": tensor}) == fingerprint({"a": random(3, 1 << 20)})
    copied(tensor, torch.bfloat16, tensor.device)
    assert len({piece.data_ptr() for piece in pieces(tensor)}) == 1  # one buffer for all pieces
    assert loaded_pages(tensor) == before <= AROUND
    assert tensor.sum().isfinite()
    assert loaded_pages(tensor) >= tensor.nbytes // mmap.PAGESIZE


def test_what_was_written_to_a_map_counts(tmp_path: Path) -> None:
    tensor = opened(random(3, 1 << 20), tmp_path / "a.safetensors")
    before = fingerprint({"a": tensor})
    tensor.data[1, 7] = torch.nan  # no version counter sees this
    assert not_finite(tensor) == 1
    assert fingerprint({"a": tensor}) != before
    assert joined(tensor)[1, 7].isnan()
    assert torch.equal(joined(tensor[2]), random(3, 1 << 20)[2])


@pytest.mark.parametrize("longer", [0, 5])
def test_a_file_that_was_replaced_or_removed_is_not_read(tmp_path: Path, longer: int) -> None:
    path = tmp_path / "a (deleted) \n.safetensors"
    tensor = opened(random(1 << 20), path)
    assert torch.equal(joined(tensor), random(1 << 20))
    save_file({"a": random((1 << 20) + longer, seed=1)}, tmp_path / "b")
    (tmp_path / "b").replace(path)
    assert torch.equal(joined(tensor), random(1 << 20))
    path.unlink()
    assert torch.equal(joined(tensor), random(1 << 20))


@pytest.mark.parametrize("missing", ["MAPS", "PAGES"])
def test_a_system_that_does_not_tell(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, missing, tmp_path / "nothing")
    tensor = opened(random(1 << 20), tmp_path / "a.safetensors")
    assert torch.equal(joined(tensor), random(1 << 20))


@linux
def test_an_artifact_loads_no_weight_that_it_replaces(tmp_path: Path) -> None:
    config = checkpoints.llada_config(
        d_model=256, n_layers=1, mlp_hidden_size=2048, vocab_size=6000, embedding_size=6000
    )
    tensors = checkpoints.random_llada(config).state_dict()
    folder = checkpoints.write(tmp_path / "model", config, tensors)
    ids = random(8, 16).abs().mul(9).long()
    model, _ = starquant_fx.from_pretrained(folder)
    compiled = starquant_fx.compile(model, small("rtn-w4a4"), calibration=ids)
    path = starquant_fx.save_artifact(compiled, tmp_path / "a.safetensors")
    expected = compiled(ids).logits

    model, _ = starquant_fx.from_pretrained(folder)
    weights = dict(model.named_parameters())
    again = starquant_fx.load_artifact(model, path)
    assert torch.equal(again(ids).logits, expected)
    kept = {tensor.data_ptr() for tensor in again.graph.state_dict(keep_vars=True).values()}
    replaced = {name: w for name, w in weights.items() if w.data_ptr() not in kept}
    large = [w for w in replaced.values() if w.nbytes > mapped.PIECE]
    assert len(large) >= 3  # gate, up and down
    assert all(loaded_pages(weight) <= AROUND for weight in large)
    assert loaded_pages(weights["model.transformer.wte.weight"]) < 6000 * 1024 // mmap.PAGESIZE / 2
