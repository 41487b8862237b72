"""The mean message and its gradients against plain operations on every ordered pair."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from omatg_ray.crystal.batch import Layout
from omatg_ray.flow.messages import mean_message

HIDDEN, WAVES = 6, 4


def inputs(layout: Layout) -> list[torch.Tensor]:
    """Receiver, sender, sines, cosines, their weights, W and b."""
    atoms, pairs = len(layout.batch), len(layout.pairs[0])
    shapes = [(atoms, HIDDEN), (atoms, HIDDEN), (pairs, WAVES), (pairs, WAVES), (HIDDEN, WAVES), (HIDDEN, WAVES)]
    generator = torch.Generator().manual_seed(0)
    shapes += [(HIDDEN, HIDDEN), (HIDDEN,)]  # type: ignore[list-item]
    return [torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def plain(sizes, receiver, sender, sin, cos, w_sin, w_cos, weight, bias, pooled=False):
    means, start, pair = [], 0, 0
    for n in sizes:
        phases = {}
        for i in range(n):
            for j in range(i + 1, n):
                phases[i, j], phases[j, i] = (sin[pair], cos[pair]), (-sin[pair], cos[pair])
                pair += 1
        for i in range(n):
            messages = []
            for j in range(n):
                s, c = phases.get((i, j), (torch.zeros_like(w_sin[0]), torch.ones_like(w_cos[0])))
                inner = receiver[start + i] + sender[start + j] + w_sin @ s + w_cos @ c
                messages.append(F.silu(inner) if pooled else F.silu(weight @ F.silu(inner) + bias))
            mean = torch.stack(messages).mean(0)
            means.append(F.silu(weight @ mean + bias) if pooled else mean)
        start += n
    return torch.stack(means)


@pytest.mark.parametrize("sizes", [[3, 1, 4, 2], [5], [1, 1]])
@pytest.mark.parametrize("pooled", [False, True])
def test_equals_the_plain_evaluation_and_its_gradients(sizes, pooled):
    layout = Layout(torch.tensor(sizes))
    values = inputs(layout)
    found, expected = mean_message(layout.edges, *values, pooled), plain(sizes, *values, pooled)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad(found, values, upstream)
    for gradient, other in zip(
        gradients, torch.autograd.grad(expected, values, upstream, allow_unused=True), strict=True
    ):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient) if other is None else other, atol=1e-12, rtol=0)


@pytest.mark.parametrize("pooled", [False, True])
def test_the_same_without_gradients(pooled):
    layout = Layout(torch.tensor([3, 1, 4]))
    values = inputs(layout)
    before = [value.detach().clone() for value in values]
    with torch.no_grad():
        found = mean_message(layout.edges, *values, pooled)
    assert torch.equal(found, mean_message(layout.edges, *values, pooled))
    assert all(torch.equal(value, other) for value, other in zip(values, before, strict=True))


@pytest.mark.parametrize("needs", [False, True])
def test_bfloat16_is_the_same_within_its_precision(needs):
    """Against float64; errors of a mean over pairs stay within a few units of the last of its 8 bits."""
    layout = Layout(torch.tensor([3, 1, 4, 2]))
    exact = inputs(layout)
    coarse = [value.detach().bfloat16().requires_grad_(needs) for value in exact]
    expected, found = mean_message(layout.edges, *exact), mean_message(layout.edges, *coarse)
    assert found.dtype == torch.bfloat16 and found.requires_grad is needs
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(found.double(), expected, atol=0.02 * scale, rtol=0)
    if needs:
        upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        for gradient, other in zip(
            torch.autograd.grad(found, coarse, upstream.bfloat16()),
            torch.autograd.grad(expected, exact, upstream),
            strict=True,
        ):
            assert gradient.dtype == torch.bfloat16
            torch.testing.assert_close(gradient.double(), other, atol=0.04 * float(other.abs().max()), rtol=0)
