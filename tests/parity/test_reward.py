"""Validity flags and energy rewards against the official implementation's numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import ase.io
import pytest
import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.potential import Potential
from omatg_ray.reward.validity import check_validity


class GivenEnergies:
    """Stands in for a potential: the energy per atom of a structure is looked up by its cell and first position."""

    elements = frozenset(range(1, 119))

    def __init__(self, crystals: CrystalBatch, energy_per_atom: Tensor) -> None:
        self.energy_per_atom = dict(zip(self.keys(crystals), energy_per_atom.tolist(), strict=True))
        assert len(self.energy_per_atom) == len(crystals)

    @staticmethod
    def keys(crystals: CrystalBatch) -> list[tuple[float, ...]]:
        first = crystals.pos[crystals.ptr[:-1]]
        return [tuple(row) for row in torch.cat([crystals.cell.flatten(1), first], dim=1).tolist()]

    def energies(self, crystals: CrystalBatch, chunk_edges: int | None = None, *, repulsion: bool) -> Tensor:
        per_atom = torch.tensor([self.energy_per_atom[key] for key in self.keys(crystals)], dtype=torch.float64)
        return per_atom * crystals.n_atoms


def read(path: Path) -> CrystalBatch:
    atoms = ase.io.read(path, ":")
    return CrystalBatch(
        torch.cat([torch.tensor(a.numbers) for a in atoms]),
        torch.cat([torch.tensor(a.get_scaled_positions(wrap=False)) for a in atoms]),
        torch.stack([torch.tensor(a.cell.array) for a in atoms]),
        torch.tensor([len(a) for a in atoms]),
    )


@pytest.fixture(scope="module")
def summary(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "parity" / "metrics_summary.json").read_text())


@pytest.mark.parametrize("file", ["metrics_generated", "metrics_degenerate"])
def test_validity(shared: Path, summary: dict[str, Any], file: str) -> None:
    if file == "metrics_generated":
        rows = json.loads((shared / "parity" / "metrics_per_structure.json").read_text())["rows"]
    else:
        rows = summary["degenerate"]["rows"]
    found = check_validity(read(shared / "parity" / f"{file}.extxyz"), own_images=False)
    assert found.valid.tolist() == [row["energy_reward_is_valid"] for row in rows]
    assert 0 < sum(found.valid.tolist()) < len(rows)

    def column(name: str, missing: float = torch.nan) -> Tensor:
        return torch.tensor([missing if row[name] is None else row[name] for row in rows], dtype=torch.float64)

    torch.testing.assert_close(found.volume, column("volume"), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found.polar_sine, column("polar_sine"), rtol=1e-6, atol=1e-9)
    # Cells that fail volume or polar sine are not measured here.
    measured = (column("volume") >= 0.1) & (column("polar_sine") >= 1e-3)
    assert torch.equal(found.min_distance.isnan(), ~measured)
    expected = column("min_distance", missing=torch.inf)
    torch.testing.assert_close(found.min_distance[measured], expected[measured], rtol=0, atol=1e-6)


def test_energy_rewards(shared: Path, summary: dict[str, Any]) -> None:
    """Cases with a penalty and without the clipping to standard deviations, which this reward does not have."""
    arithmetic = summary["energy_reward_arithmetic"]
    crystals = read(shared / "parity" / "metrics_generated.extxyz").select(arithmetic["structure_indices"])
    energies = torch.tensor(arithmetic["energy_per_atom_input"], dtype=torch.float64)
    cases = [c for c in arithmetic["cases"] if c["clip_std"] is None and c["invalid_penalty"] is not None]
    assert cases
    for case in cases:
        given = cast(Potential, GivenEnergies(crystals, energies))
        rewards = MatGLEnergy(given, invalid_energy=case["invalid_penalty"], cap=False, own_images=False)
        result = rewards(crystals)
        expected = torch.tensor(case["rewards"], dtype=torch.float64)
        torch.testing.assert_close(case["scale"] * result.reward, expected, rtol=1e-9, atol=1e-9)
        assert result.values["valid"].tolist() == [1 - invalid for invalid in case["energy_invalid"]]


def test_the_cap_changes_only_what_would_score_below_invalid(shared: Path, summary: dict[str, Any]) -> None:
    arithmetic = summary["energy_reward_arithmetic"]
    crystals = read(shared / "parity" / "metrics_generated.extxyz").select(arithmetic["structure_indices"])
    energies = torch.tensor(arithmetic["energy_per_atom_input"], dtype=torch.float64)
    case = next(c for c in arithmetic["cases"] if c["clip_std"] is None and c["invalid_penalty"] == 3.0)
    capped = MatGLEnergy(cast(Potential, GivenEnergies(crystals, energies)), invalid_energy=3.0, own_images=False)
    expected = torch.tensor(case["rewards"], dtype=torch.float64)
    assert expected.min() < -3
    bounded = torch.tensor([value if value >= -2 else -(3 - 1 / (-value - 1)) for value in case["rewards"]]).double()
    invalid = torch.tensor(case["energy_invalid"]).bool()
    bounded[invalid] = -3.0
    torch.testing.assert_close(capped(crystals).reward, bounded, rtol=1e-6, atol=1e-6)
