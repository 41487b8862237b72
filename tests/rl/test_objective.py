"""The PPO objective against loops in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from omatg_ray.crystal.batch import Layout
from omatg_ray.rl.objective import position_terms, surrogate
from omatg_ray.rl.settings import FieldWeights, ObjectiveSettings

SIZES, STEPS, CLIP = [3, 1, 4], 5, 0.2


def plain_surrogate(log_ratio: float, advantage: float) -> tuple[float, float]:
    ratio = math.exp(log_ratio)
    clipped = min(max(ratio, 1 - CLIP), 1 + CLIP)
    return -min(ratio * advantage, clipped * advantage), float(clipped != ratio)


def inputs():
    log_ratio = 0.3 * torch.randn(STEPS, sum(SIZES), dtype=torch.float64)
    return log_ratio, torch.rand(STEPS, sum(SIZES), dtype=torch.float64), torch.tensor([1.5, -0.7, -0.8]).double()


@pytest.mark.parametrize("advantage", [2.0, -2.0])
@pytest.mark.parametrize("log_ratio", [-1.0, -0.1, 0.0, 0.1, 1.0])
def test_surrogate(log_ratio, advantage):
    value = torch.tensor(log_ratio, dtype=torch.float64, requires_grad=True)
    loss, outside = surrogate(value, torch.tensor(advantage, dtype=torch.float64), CLIP)
    expected, clipped = plain_surrogate(log_ratio, advantage)
    assert float(loss.detach()) == pytest.approx(expected) and float(outside) == clipped
    (slope,) = torch.autograd.grad(loss, value)
    # No pull beyond the edge in the direction that the advantage rewards; full pull back from the other side.
    beyond = (advantage > 0 and log_ratio == 1.0) or (advantage < 0 and log_ratio == -1.0)
    assert float(slope) == pytest.approx(0.0 if beyond else -advantage * math.exp(log_ratio))


@pytest.mark.parametrize("advantage", [1.0, 0.0])
def test_a_clipped_ratio_beyond_the_range_of_floats_has_no_gradient(advantage):
    log_ratio = torch.tensor([100.0], requires_grad=True)
    loss, _ = surrogate(log_ratio, torch.tensor([advantage]), CLIP)
    assert float(loss.detach()) == pytest.approx(-1.2 * advantage)
    (slope,) = torch.autograd.grad(loss.sum(), log_ratio)
    assert float(slope) == 0.0


@pytest.mark.parametrize("reduction", ["none", "per_structure", "per_atom"])
def test_position_terms(reduction):
    log_ratio, kl, advantage = inputs()
    layout = Layout(torch.tensor(SIZES))
    policies, divergences, outside = position_terms(log_ratio, kl, advantage, layout, CLIP, reduction)
    for k in range(STEPS):
        start = 0
        for b, n in enumerate(SIZES):
            atoms = log_ratio[k, start : start + n].tolist()
            of_atoms = kl[k, start : start + n].tolist()
            start += n
            a = float(advantage[b])
            if reduction == "per_atom":
                each = [plain_surrogate(value, a) for value in atoms]
                policy, clipped = (sum(values) / n for values in zip(*each, strict=True))
            else:
                policy, clipped = plain_surrogate(sum(atoms), a / n if reduction == "per_structure" else a)
            assert float(policies[k, b]) == pytest.approx(policy, rel=1e-12)
            assert float(outside[k, b]) == pytest.approx(clipped)
            expected = sum(of_atoms) if reduction == "none" else sum(of_atoms) / n
            assert float(divergences[k, b]) == pytest.approx(expected, rel=1e-12)
    assert 0 < float(outside.mean()) < 1


def test_surrogate_of_structures():
    log_ratio, _, advantage = (v[..., :3] for v in inputs())
    policy, outside = surrogate(log_ratio, advantage, CLIP)
    for k in range(STEPS):
        for b in range(3):
            expected = plain_surrogate(float(log_ratio[k, b]), float(advantage[b]))
            assert (float(policy[k, b]), float(outside[k, b])) == pytest.approx(expected)


def test_weights_of_fields():
    weights = FieldWeights(pos=2.0, cell=3.0)
    assert (weights.of("pos"), weights.of("cell")) == (2.0, 3.0)


@pytest.mark.parametrize("values", [{"clip": 0.0}, {"clip": 1.0}, {"position_reduction": "sum"}, {"kl_weight": -1.0}])
def test_refused_settings(values):
    with pytest.raises(ValidationError):
        ObjectiveSettings(**values)
