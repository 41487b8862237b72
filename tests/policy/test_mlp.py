"""Networks of time."""

from __future__ import annotations

import torch

from omatg_ray.policy.mlp import at_times, time_mlp


def test_each_distinct_time_is_asked_for_once_and_learns_from_all_that_have_it():
    torch.manual_seed(0)
    network = time_mlp(8, 1).double()
    asked: list[int] = []
    network.register_forward_hook(lambda module, given, out: asked.append(len(given[0])))
    weights = torch.randn(2, 6, dtype=torch.float64)
    for t in (torch.tensor([[0.7, 0.1, 0.1, 0.4, 0.7, 0.1]] * 2), torch.linspace(0.1, 0.9, 12).view(2, 6)):
        t = t.double()
        asked.clear()
        gradients, values = [], []
        for ask in (
            lambda t: at_times(network, t),
            lambda t: torch.stack([network(x.view(1, 1)) for x in t.flatten()]),
        ):
            network.zero_grad()
            value = ask(t).view(2, 6)
            (weights * value).sum().backward()
            values.append(value)
            gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
        torch.testing.assert_close(*values)
        torch.testing.assert_close(*gradients)
        assert asked[0] == len(set(t.flatten().tolist())) and len(asked) == 1 + t.numel()


def test_a_single_time_keeps_its_shape():
    network = time_mlp(8, 1)
    for t in (torch.tensor(0.3), torch.tensor([0.3]), torch.tensor([[0.3]])):
        assert at_times(network, t).shape == t.shape
    assert at_times(network, torch.zeros(0)).shape == (0,)
