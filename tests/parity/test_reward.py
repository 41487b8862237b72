"""Validity flags and energy rewards against the official implementation's numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

import ase.io
import pytest
import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.validity import check_validity
from omatg_ray.reward.crmse import PolymorphMatch
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.matching import MatchSettings
from omatg_ray.reward.potential import Potential
from omatg_ray.reward.protocol import Once, RewardResult
from omatg_ray.reward.symmetry import NonCentrosymmetric, NonTriclinic
from omatg_ray.reward.weighted import Weighted
from omatg_ray.rl.advantage import clipped, group_advantages
from omatg_ray.rl.settings import AdvantageSettings


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
    """Cases with a penalty and without the clipping to standard deviations, which is a matter of advantages here."""
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


def test_energies_clipped_to_standard_deviations(summary: dict[str, Any]) -> None:
    """The peer clips the valid energies of a batch; here what is clipped is a group's rewards, by the same function."""
    arithmetic = summary["energy_reward_arithmetic"]
    energies = torch.tensor(arithmetic["energy_per_atom_input"], dtype=torch.float64)
    cases = [case for case in arithmetic["cases"] if case["clip_std"] is not None]
    assert len(cases) == 2
    for case in cases:
        valid = ~torch.tensor(case["energy_invalid"]).bool()
        rewards = torch.full_like(energies, -case["invalid_penalty"])
        rewards[valid] = clipped(-energies[valid], case["clip_std"])
        assert (rewards[valid] != -energies[valid]).any()
        torch.testing.assert_close(
            case["scale"] * rewards, torch.tensor(case["rewards"]).double(), rtol=1e-6, atol=1e-6
        )
        # The same through the advantages of a group of valid structures.
        settings = AdvantageSettings(shaping="none", clip_std=case["clip_std"])
        ours = group_advantages(-energies[valid][None], settings).values
        theirs = group_advantages(torch.tensor(case["rewards"], dtype=torch.float64)[valid][None]).values
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


class Row:
    """Rewards read from a file."""

    elements = None

    def __init__(self, name: str, reward: list[float]) -> None:
        self.name, self.reward = name, torch.tensor(reward, dtype=torch.float64)

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        return RewardResult(self.reward, {})


def test_weighted_sums(shared: Path, summary: dict[str, Any]) -> None:
    """The peer leaves out parts without weight in training; here they are there, and count nothing, in any case."""
    crystals = read(shared / "parity" / "metrics_generated.extxyz").select(range(5))
    assert len(summary["composite_reward"]) == 2
    for case in summary["composite_reward"]:
        rows = zip("abc", case["weights"], case["rewards"], strict=True)
        result = Weighted({name: (weight, Row(name, reward)) for name, weight, reward in rows})(crystals)
        torch.testing.assert_close(result.reward, torch.tensor(case["total"]).double(), rtol=1e-6, atol=1e-6)
        assert set(case["info_keys"]) <= result.values.keys()


@pytest.mark.parametrize("symprec", [0.1, 0.01])
def test_symmetry_rewards(shared: Path, symprec: float) -> None:
    expected = json.loads((shared / "parity" / "metrics_per_structure.json").read_text())["rewards"]
    rewards = expected[f"symmetry_symprec_{symprec}"]
    crystals = read(shared / "parity" / "metrics_generated.extxyz")
    once = Once(NonTriclinic(symprec, own_images=False))
    found = once(crystals)
    assert found.reward.tolist() == rewards["non_triclinic"]
    assert NonCentrosymmetric(once)(crystals).reward.tolist() == rewards["non_centrosymmetric"]
    numbers = [None if math.isnan(number) else int(number) for number in found.values["space_group"].tolist()]
    assert numbers == rewards["space_group_number_of_valid_structures"]
    assert found.values["inversion"].nan_to_num(0.0).tolist() == rewards["has_inversion"]


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize(
    "name, settings, scale",
    [("crmse_default", MatchSettings(), 1.0), ("crmse_scaled", MatchSettings(0.2, 0.3, 5.0), 2.5)],
)
def test_crmse_rewards(shared: Path, name: str, settings: MatchSettings, scale: float, every: int) -> None:
    folder = shared / "parity"
    expected = json.loads((folder / "metrics_per_structure.json").read_text())["rewards"][name]
    reward = PolymorphMatch(read(folder / "metrics_reference.extxyz"), settings, timeout=60.0, own_images=False)
    crystals = read(folder / "metrics_generated.extxyz")
    result = Weighted({"crmse": (scale, reward)})(crystals.select(range(0, len(crystals), every)))
    rewards, crmse = (torch.tensor(expected[key]).double()[::every] for key in ("reward", "crmse"))
    torch.testing.assert_close(result.reward, rewards, rtol=0, atol=1e-5)
    torch.testing.assert_close(result.values["crmse.rmse"].nan_to_num(settings.stol), crmse, rtol=0, atol=1e-5)


def test_degenerate_cells_get_no_symmetry_and_no_match(shared: Path, summary: dict[str, Any]) -> None:
    """The second takes the peer for ever; it is left out."""
    rows = [row for row in summary["degenerate"]["rows"] if not isinstance(row["crmse_reward"], str)]
    crystals = read(shared / "parity" / "metrics_degenerate.extxyz").select([row["index"] for row in rows])
    assert NonTriclinic(own_images=False)(crystals).reward.tolist() == [row["non_triclinic_reward"] for row in rows]
    found = PolymorphMatch(crystals, own_images=False)(crystals).reward.tolist()
    assert found == [row["crmse_reward"] for row in rows]


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
