from __future__ import annotations

import pytest
import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.reward.target import Target, closeness

# Rocksalt NaCl: a = 5.64 Å, 58.443 g/mol, 2.164 g/cm³ by a handbook's formula Z M / (N_A V).
SALT_DENSITY = 4 * 58.443 / (6.02214076e23 * (5.64e-8) ** 3)


def salt(constant: float) -> CrystalBatch:
    cell = constant / 2 * (torch.ones(3, 3, dtype=torch.float64) - torch.eye(3).double())
    pos = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]], dtype=torch.float64)
    return CrystalBatch(torch.tensor([11, 17]), pos, cell[None], torch.tensor([2]))


def test_density() -> None:
    crystals = CrystalBatch.cat([salt(5.64), salt(0.4)])
    result = Target("density", SALT_DENSITY + 0.5, 0.25)(crystals)
    assert float(result.values["density"][0]) == pytest.approx(SALT_DENSITY, rel=1e-4)
    assert result.values["density"][1].isnan()
    assert result.reward.tolist() == pytest.approx([-2 / 3, -1.0], abs=1e-3)


def test_volume() -> None:
    per_atom = 5.64**3 / 8
    result = Target("volume", per_atom, 3.0)(CrystalBatch.cat([salt(5.64), salt(6.0), salt(0.4)]))
    d = (6.0**3 / 8 - per_atom) / 3.0
    assert result.reward.tolist() == pytest.approx([0.0, -d / (1 + d), -1.0], abs=1e-12)
    assert result.values["volume_per_atom"][:2].tolist() == pytest.approx([per_atom, 27.0])


def test_a_valid_crystal_however_far_off_scores_above_an_invalid_one_and_nearer_is_better() -> None:
    rewards = closeness(torch.tensor([10.0, 11.0, 8.0, 1e6], dtype=torch.float64), 10.0, 1.0).tolist()
    assert rewards == pytest.approx([0.0, -0.5, -2 / 3, -1.0], abs=1e-5)
    assert rewards[3] > -1
