from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from pymatgen.core import Composition

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import DataError, RewardError
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.hull import EnergyAboveHull, Hull, entries_of, read_entries
from omatg_ray.reward.protocol import RewardResult

NA, CL, BR = 11, 17, 35
# Na + Cl with Na at -1, Cl at -2 eV/atom; NaCl at -3.5, 2 eV/atom below the line; Na3Cl above the hull.
ENTRIES = [
    (((NA, 1.0),), -1.0),
    (((NA, 1.0),), -0.5),
    (((CL, 1.0),), -2.0),
    (((NA, 1.0), (CL, 1.0)), -3.5),
    (((NA, 3.0), (CL, 1.0)), -1.3),
    (((BR, 1.0),), -1.7),
]


@pytest.mark.parametrize(
    "composition, energy",
    [
        (((NA, 1),), -1.0),
        (((NA, 1), (CL, 1)), -3.5),
        # Half of the atoms in Na, half in NaCl.
        (((NA, 3), (CL, 1)), 0.5 * -1.0 + 0.5 * -3.5),
        # A third of the atoms of NaCl2 in Cl.
        (((NA, 1), (CL, 2)), 2 / 3 * -3.5 + 1 / 3 * -2.0),
        # No compound of bromine is known.
        (((NA, 1), (BR, 1)), -1.35),
        (((NA, 2), (CL, 1), (BR, 1)), 0.5 * -3.5 + 0.25 * -1.0 + 0.25 * -1.7),
    ],
)
def test_the_hull_is_that_of_the_lever_rule(composition: Any, energy: float) -> None:
    hull = Hull(ENTRIES)
    assert hull.energy_per_atom(composition) == pytest.approx(energy, abs=1e-9)
    assert hull.energy_per_atom(composition) == pytest.approx(energy, abs=1e-9)


def test_elements_without_a_reference_are_named() -> None:
    with pytest.raises(RewardError, match=r"no elemental crystal of O, K; add .* reward\.hull\.entries"):
        Hull(ENTRIES).require_elements([NA, 19, 8])
    with pytest.raises(RewardError, match="elemental crystal of K;"):
        Hull(ENTRIES).energy_per_atom(((CL, 1), (19, 1)))


def test_one_diagram_per_chemical_system(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = Hull._made
    monkeypatch.setattr(Hull, "_made", lambda self, system: made.append(system) or original(self, system))
    hull = Hull(ENTRIES)
    for composition in (((NA, 1), (CL, 1)), ((NA, 3), (CL, 1)), ((NA, 1), (CL, 1)), ((NA, 1), (BR, 1))):
        hull.energy_per_atom(composition)
    assert made == [{NA, CL}, {NA, BR}]


def test_elements_of_the_reward_are_those_with_an_energy_and_a_reference() -> None:
    hull = Hull([*ENTRIES, (((19, 1.0), (CL, 1.0)), -3.0)])
    assert hull.elements == {NA, CL, BR}
    for known, common in ((None, {NA, CL, BR}), (frozenset({8, NA, CL}), {NA, CL})):
        assert EnergyAboveHull(Energies([], [], known), hull).elements == common


class Energies:
    """Energies per atom that were made up."""

    name = "energy"

    def __init__(self, energy: list[float], valid: list[float], elements: frozenset[int] | None = None) -> None:
        self.elements = elements
        self.values = {"energy_per_atom": torch.tensor(energy).double(), "valid": torch.tensor(valid).double()}

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        return RewardResult(-self.values["energy_per_atom"], self.values)


def salts(count: int, species: tuple[int, int] = (NA, CL)) -> CrystalBatch:
    pos = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]).double().repeat(count, 1)
    cells = (3.5 + 0.1 * torch.arange(count).double())[:, None, None] * torch.eye(3).double()
    return CrystalBatch(torch.tensor(species * count), pos, cells, torch.full((count,), 2))


def test_rewards_are_minus_the_energy_above_the_hull_and_invalid_ones_are_worst() -> None:
    nan = torch.nan
    reward = EnergyAboveHull(Energies([-3.2, -3.7, 50.0, nan, nan], [1, 1, 1, 0, 1]), Hull(ENTRIES), 2.0)
    result = reward(salts(5))
    # 53.5 eV/atom above the hull are squeezed to 2 - 1 / (1 + 53.5 - 1).
    expected = torch.tensor([-0.3, 0.2, -(2.0 - 1 / 53.5), -2.0, nan]).double()
    torch.testing.assert_close(result.reward, expected, equal_nan=True, atol=1e-6, rtol=0)
    above = torch.tensor([0.3, -0.2, 53.5, nan, nan]).double()
    torch.testing.assert_close(result.values["above_hull"], above, equal_nan=True, atol=1e-6, rtol=0)


def test_entries_that_pymatgen_writes(tmp_path: Path) -> None:
    from pymatgen.analysis.phase_diagram import PDEntry
    from pymatgen.core import Composition, Lattice, Structure
    from pymatgen.entries.computed_entries import ComputedEntry, ComputedStructureEntry

    structure = Structure(Lattice.cubic(3.0), ["Na"], [[0, 0, 0]])
    entries = [
        PDEntry(Composition("Na2Cl2"), -14.0),
        ComputedEntry(Composition("Cl2"), -3.0, correction=-1.0),
        ComputedStructureEntry(structure, -1.0),
    ]
    file = tmp_path / "entries.json"
    expected = [(((NA, 2.0), (CL, 2.0)), -3.5), (((CL, 2.0),), -2.0), (((NA, 1.0),), -1.0)]
    for content in (rows := [entry.as_dict() for entry in entries], {"entries": rows}):
        file.write_text(json.dumps(content))
        found = read_entries(file)
        assert found == [(composition, pytest.approx(energy)) for composition, energy in expected]


def test_energy_adjustments_count_where_no_correction_is_given(tmp_path: Path) -> None:
    from pymatgen.entries import computed_entries as pymatgen  # not before: it takes seconds

    adjustments = [
        pymatgen.ConstantEnergyAdjustment(-1.5),
        pymatgen.ManualEnergyAdjustment(0.25),
        pymatgen.CompositionEnergyAdjustment(-0.6, 3),
        pymatgen.TemperatureEnergyAdjustment(-0.001, 300, 5),
    ]
    entry = pymatgen.ComputedEntry(Composition("Na2Cl3"), -10.0, energy_adjustments=adjustments)
    row = entry.as_dict()
    file = tmp_path / "entries.json"
    for rows in ([row], [{key: value for key, value in row.items() if key != "correction"}]):
        file.write_text("\ufeff" + json.dumps(rows), encoding="utf-8")
        assert read_entries(file)[0][1] == pytest.approx(entry.energy / 5)
    row["energy_adjustments"].append({"name": "another kind"})
    del row["correction"]
    file.write_text(json.dumps([row]))
    with pytest.raises(DataError, match="entry 1: .*another kind"):
        read_entries(file)


def test_entries_of_a_table(tmp_path: Path) -> None:
    file = tmp_path / "entries.csv"
    file.write_text("formula,energy_per_atom\nNaCl,-3.5\nCl2,-2\n")
    assert read_entries(file) == [(((NA, 1.0), (CL, 1.0)), -3.5), (((CL, 2.0),), -2.0)]


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("x.json", "[{", "cannot read the entries"),
        ("x.json", "{}", "no list of entries"),
        ("x.json", '[{"composition": {"Na": 1}, "energy": -1}, {"composition": {"Na": 1}}]', "entry 2: .*energy"),
        ("x.json", '[{"composition": {"Xx": 1}, "energy": -1}]', "entry 1: .*Xx"),
        ("x.json", '[{"composition": {"Na": 1}, "energy": NaN}]', "entry 1: .*finite"),
        ("x.json", '[{"composition": {}, "energy": -1}]', "entry 1: .*composition is empty"),
        ("x.json", '[{"composition": {"Na": 0}, "energy": -1}]', "entry 1: .*composition is empty"),
        ("x.csv", "formula,energy_per_atom\n,-3.5\n", "entry 1: .*formula"),
        ("x.csv", "formula,energy\nNaCl,-3.5\n", "entry 1: .*energy_per_atom"),
        ("x.csv", "formula,energy_per_atom\nNaCl,low\n", "entry 1: .*low"),
        ("x.pkl", "", "json.*csv"),
        ("missing.csv", None, "missing.csv cannot be read"),
    ],
)
def test_bad_entries_are_named(tmp_path: Path, name: str, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said):
        read_entries(tmp_path / name)


class Counting:
    """Stands in for a potential: minus the lattice constant per structure."""

    elements, fingerprint = frozenset({NA, CL}), "abc"

    def __init__(self) -> None:
        self.evaluated = 0

    def energies(self, crystals: CrystalBatch, chunk_edges: int | None = None, *, repulsion: bool) -> torch.Tensor:
        self.evaluated += len(crystals)
        return -crystals.cell[:, 0, 0]


def test_references_are_weighed_once_and_invalid_ones_left_out(tmp_path: Path) -> None:
    crystals = salts(3)
    crystals.pos[3] = crystals.pos[2]
    potential = Counting()
    energy = MatGLEnergy(cast(Any, potential))
    first = entries_of(crystals, energy, tmp_path / "cache")
    assert [energy for _, energy in first] == pytest.approx([-1.75, -1.85])
    assert {amounts for amounts, _ in first} == {((NA, 1), (CL, 1))}
    assert entries_of(crystals, energy, tmp_path / "cache") == first and potential.evaluated == 2
    # Other crystals and other weights are others.
    entries_of(salts(3), energy, tmp_path / "cache")
    assert potential.evaluated == 5
    potential.fingerprint = "abd"
    entries_of(crystals, energy, tmp_path / "cache")
    assert potential.evaluated == 7
    # A damaged cache is none.
    for file in (tmp_path / "cache").iterdir():
        file.write_text("[1")
    assert entries_of(crystals, energy, tmp_path / "cache") == first
    assert entries_of(crystals, energy, None) == first


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert len(entries_of(salts(2), MatGLEnergy(cast(Any, Counting())), tmp_path / "file")) == 2
