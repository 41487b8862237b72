"""Optimizer states as flat tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from omatg_ray.errors import ModelError
from omatg_ray.run.optimizer_state import flatten_optimizer, restore_optimizer


def parameters(count=2, size=3):
    return [nn.Parameter(torch.linspace(-1, 1, size) + i) for i in range(count)]


def steps(optimizer, weights, count, start=0):
    for k in range(start, start + count):
        optimizer.zero_grad()
        sum((w * (k + 1 + i)).square().sum() for i, w in enumerate(weights)).backward()
        optimizer.step()


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_a_restored_optimizer_goes_on_exactly(kind):
    whole, half = parameters(), parameters()
    steps(kind(whole, lr=0.1), whole, 5)
    stopped = kind(half, lr=0.1)
    steps(stopped, half, 3)
    flat = {key: value.clone() for key, value in flatten_optimizer(stopped).items()}
    assert set(flat) == {f"{i}.{name}" for i in range(2) for name in ("step", "exp_avg", "exp_avg_sq")}
    rest = [nn.Parameter(w.detach().clone()) for w in half]
    resumed = kind(rest, lr=0.1)
    restore_optimizer(resumed, flat)
    steps(resumed, rest, 2, start=3)
    assert all(torch.equal(a, b) for a, b in zip(rest, whole, strict=True))


def test_hyperparameters_stay_those_of_the_new_optimizer():
    weights = parameters()
    old = torch.optim.Adam(weights, lr=0.1)
    steps(old, weights, 1)
    new = torch.optim.Adam(weights, lr=0.7)
    restore_optimizer(new, flatten_optimizer(old))
    assert new.param_groups[0]["lr"] == 0.7


def test_an_unused_optimizer_has_no_state():
    assert flatten_optimizer(torch.optim.Adam(parameters())) == {}


@pytest.mark.parametrize("count, size", [(1, 3), (3, 3), (2, 4)])
def test_the_state_of_other_parameters_is_refused(count, size):
    weights = parameters()
    old = torch.optim.Adam(weights)
    steps(old, weights, 1)
    new = torch.optim.Adam(parameters(count, size))
    with pytest.raises(ModelError, match="another architecture"):
        restore_optimizer(new, flatten_optimizer(old))
