"""The chunked loss of a frozen head is PyTorch's, with its gradient, and keeps nothing of the vocabulary's size."""

import pytest
import torch
from torch.nn import functional as F

from nemo_desta.parallel import cross_entropy
from nemo_desta.parallel.cross_entropy import summed_cross_entropy


def made(positions: int, rows: int = 37, vocabulary: int = 33) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(positions, 8, generator=generator).requires_grad_()
    return hidden, 3 * torch.randn(rows, 8, generator=generator), torch.randint(0, vocabulary, (positions,), generator=generator)


@pytest.mark.parametrize("positions", [1, 5, 10, 23])
def test_loss_and_gradient_are_pytorchs_whatever_the_chunks(positions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK", 5)
    hidden, weight, target = made(positions)
    loss = summed_cross_entropy(hidden, weight, target, vocabulary=33)
    (gradient,) = torch.autograd.grad(2.0 * loss, hidden)
    wanted = F.cross_entropy(hidden @ weight[:33].T, target, reduction="sum")  # rows beyond the vocabulary are filling
    (wanted_gradient,) = torch.autograd.grad(2.0 * wanted, hidden)
    assert torch.allclose(loss, wanted, rtol=1e-6) and torch.allclose(gradient, wanted_gradient, rtol=1e-4, atol=1e-6)


def test_only_a_gradient_of_the_hidden_states_size_is_kept() -> None:
    hidden, weight, target = made(23)
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.numel()) or tensor, lambda tensor: tensor):
        summed_cross_entropy(hidden, weight, target, vocabulary=33)
    assert saved == [hidden.numel()]


def test_without_gradients_none_is_made() -> None:
    hidden, weight, target = made(6)
    with torch.no_grad():
        assert not summed_cross_entropy(hidden, weight, target, vocabulary=33).requires_grad
