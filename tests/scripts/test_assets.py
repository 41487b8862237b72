"""`scripts/assets`: the parts whose results can be known otherwise."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import spglib
import torch
from pymatgen.core import Composition, Lattice, Structure

from omatg_ray.crystal.batch import CrystalBatch

ROCKSALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
CESIUM_CHLORIDE = Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.5), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def test_every_prototype_has_the_space_group_that_it_names() -> None:
    from prototypes import PROTOTYPES

    numbers = {"A": 11, "B": 22, "C": 55, "X": 8}
    elements = {"A": "Na", "B": "Ti", "C": "Cs", "X": "O"}
    for name, prototype in PROTOTYPES.items():
        structure = prototype.structure(elements)
        found = spglib.get_symmetry_dataset(
            (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers), symprec=1e-3
        )
        assert found.international == prototype.space_group, name
        assert 2 <= len(structure) <= 20
        counts = Counter(structure.atomic_numbers)
        assert {numbers[label]: count for label, count in prototype.contents().items()} == counts


@pytest.mark.parametrize(
    "name, formula",
    [("fluorite", "NaO2"), ("perovskite", "NaTiO3"), ("spinel", "NaTi2O4"), ("elpasolite", "NaTiCs2O6")],
)
def test_prototypes_have_the_stoichiometry_of_their_mineral(name: str, formula: str) -> None:
    from prototypes import PROTOTYPES

    structure = PROTOTYPES[name].structure({"A": "Na", "B": "Ti", "C": "Cs", "X": "O"})
    assert structure.composition.reduced_composition == Composition(formula).reduced_composition


def test_ionic_families_are_charge_neutral() -> None:
    """Every composition of an AX2 or ABX3 family of salts adds up to zero with usual oxidation states."""
    from decorations import ANIONS, CATIONS, FAMILIES

    cations = {
        symbol: {q for q, text in CATIONS.items() if symbol in text.split()}
        for text in CATIONS.values()
        for symbol in text.split()
    }
    anions = {symbol: q for q, text in ANIONS.items() for symbol in text.split()}
    salts = [family for family in FAMILIES if family.prototypes.startswith(("rocksalt", "fluorite, rutile"))]
    assert len(salts) == 5
    for family in salts:
        multiplicity = 1 if family.prototypes.startswith("rocksalt") else 2
        for cation, anion in family.compositions():
            assert multiplicity * anions[anion] in cations[cation], (cation, anion)


def test_candidates_are_distinct_and_many() -> None:
    from decorations import candidates

    found = candidates()
    assert len({candidate.ident for candidate in found}) == len(found) > 5000
    # The prototypes of a composition stay together, so that a run that is cut short has whole compositions.
    formulas = [candidate.ident.split("-")[0] for candidate in found]
    changes = sum(a != b for a, b in itertools.pairwise(formulas))
    assert changes == len(set(formulas)) - 1


def test_relaxation_finds_the_known_lattice_constant(shared: Path) -> None:
    """NaCl and MgO under TensorNet MatPES PBE, from the notes beside the weights; MgO starts far off."""
    import matgl
    from matgl.ext.ase import PESCalculator
    from relax import relax

    calculator = PESCalculator(matgl.load_model(shared / "potentials" / "TensorNet-MatPES-PBE"), stress_unit="eV/A3")
    for structure, energy in ((ROCKSALT, -3.3576), (ROCKSALT.copy().replace_species({"Na": "Mg", "Cl": "O"}), -5.8680)):
        found = relax(structure.get_primitive_structure().to_ase_atoms(), calculator)
        assert found["energy_per_atom"] == pytest.approx(energy, abs=1e-3)
        constant = (4 * abs(np.linalg.det(found["cell"]))) ** (1 / 3)
        assert constant == pytest.approx(5.69 if energy > -5 else 4.25, abs=0.03)


def test_polymorphs_are_kept_and_duplicates_and_high_energies_dropped(tmp_path: Path) -> None:
    import crystals

    def line(name: str, structure: Structure, energy: float) -> dict[str, object]:
        symbols = [site.specie.symbol for site in structure]
        positions = structure.frac_coords.tolist()
        return {
            "id": name,
            "prototype": name,
            "symbols": symbols,
            "cell": structure.lattice.matrix.tolist(),
            "positions": positions,
            "energy_per_atom": energy,
        }

    primitive = ROCKSALT.get_primitive_structure()
    primitive.perturb(0.001)
    lines = [
        line("conventional", ROCKSALT, -3.35),
        line("the same", primitive, -3.3499),
        line("other", CESIUM_CHLORIDE, -3.2),
        line("high", CESIUM_CHLORIDE, -2.9),
        line("too close", CESIUM_CHLORIDE.copy().scale_lattice(8.0) or CESIUM_CHLORIDE, -4.0),
    ]
    squeezed = CESIUM_CHLORIDE.copy()
    squeezed.scale_lattice(8.0)
    lines[4] = line("too close", squeezed, -4.0)
    found = [crystals.physical(one) for one in lines]
    assert found[4] is None
    assert [len(crystal.structure) for crystal in found[:4] if crystal] == [2, 2, 2, 2]
    assert [crystal.properties["space_group"] for crystal in found[:3] if crystal] == [225, 225, 221]
    kept = crystals.distinct([crystal for crystal in found if crystal])
    assert [crystal.properties["material_id"] for crystal in kept] == ["conventional", "other"]


@pytest.fixture
def salts() -> CrystalBatch:
    return CrystalBatch.from_structures([ROCKSALT, CESIUM_CHLORIDE] * 20)


def test_strained_crystals_keep_positions_and_stay_in_the_range_of_volumes(salts: CrystalBatch) -> None:
    from configurations import COMPRESSION, EXPANSION, strained

    made = strained(salts, torch.Generator().manual_seed(0))
    ratio = made.cell.det() / salts.cell.det()
    assert torch.equal(made.pos, salts.pos)
    # Shear changes the volume, too, by a little.
    assert ratio.min() > 0.6 * COMPRESSION and ratio.max() < 1.6 * EXPANSION
    assert ratio.max() / ratio.min() > 2


def test_swapped_crystals_hold_the_same_atoms_on_other_sites(
    salts: CrystalBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    import configurations

    monkeypatch.setattr(configurations, "MOST_RATTLE", 1e-6)
    made = configurations.swapped(salts, torch.Generator().manual_seed(0))
    assert torch.equal(made.species, salts.species)
    moved = 0
    for b in range(len(salts)):
        before, after = salts.select([b]), made.select([b])
        distance = (after.pos[:, None] - before.pos[None] + 0.5).remainder(1.0).sub(0.5).norm(dim=-1)
        site = distance.argmin(1)
        assert distance.min(1).values.max() < 1e-4
        assert sorted(site.tolist()) == list(range(len(site)))
        moved += int((site != torch.arange(len(site))).any())
    assert moved > 20


def test_labels_are_those_of_the_potential(shared: Path, tmp_path: Path) -> None:
    """Energies, forces and stress of rattled crystals, against MatGL's own calculator; saved and read back."""
    import matgl
    from configurations import rattled
    from matgl.ext.ase import PESCalculator
    from teacher import Labels, Teacher

    potential = str(shared / "potentials" / "TensorNet-MatPES-PBE")
    crystals = rattled(CrystalBatch.from_structures([ROCKSALT, CESIUM_CHLORIDE]), torch.Generator().manual_seed(1))
    labels = Teacher(potential)(crystals, torch.tensor([2, 2]))
    labels.save(tmp_path / "labels.safetensors")
    labels = Labels.load(tmp_path / "labels.safetensors").select(torch.tensor([False, True]))
    calculator = PESCalculator(matgl.load_model(potential), stress_unit="eV/A3")
    atoms = crystals.to_structures()[1].to_ase_atoms()
    atoms.calc = calculator
    assert float(labels.energy) == pytest.approx(float(atoms.get_potential_energy()), abs=1e-4)
    np.testing.assert_allclose(labels.forces, atoms.get_forces(), atol=1e-4)
    np.testing.assert_allclose(labels.stress[0], atoms.get_stress(voigt=False), atol=1e-5)


def test_distillation_resumes_exactly_and_learns(tmp_path: Path) -> None:
    """Two epochs at once and one after the other give the same weights; the loss of a known energy falls."""
    import distill
    from configurations import rattled
    from teacher import Labels

    rng = torch.Generator().manual_seed(0)
    crystals = rattled(CrystalBatch.from_structures([CESIUM_CHLORIDE] * 32), rng)
    n = len(crystals)
    # A harmonic well of the volume: energy and virial in closed form, no forces.
    volume = crystals.cell.det()
    strain = volume / CESIUM_CHLORIDE.volume - 1
    labels = Labels(
        crystals.species, crystals.pos, crystals.cell, crystals.n_atoms, (5.0 * strain**2 - 6.0).double(),
        torch.zeros_like(crystals.pos), (10 * strain / CESIUM_CHLORIDE.volume)[:, None, None] * torch.eye(3),
        torch.full((n,), 2),
    )  # fmt: skip
    symbols = ["Na", "Cl"]

    def training(folder: str, epochs: int) -> distill.Distillation:
        torch.manual_seed(0)
        student = distill.new_student(labels, symbols)
        data = distill.examples(labels, distill.node_types(symbols), "graphs")
        out = tmp_path / folder
        made = distill.Distillation(student, data, data, out, epochs, 1e-3, 0)
        made.steps = 40
        made.run()
        return made

    whole = training("whole", 2)
    training("parts", 1)
    parts = training("parts", 2)
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, parts.average.state_dict()[name]), name
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert log[1]["energy_rattled"] < log[0]["energy_rattled"]


def test_student_is_saved_in_the_format_of_matgl(tmp_path: Path) -> None:
    import distill
    import matgl
    from teacher import Labels

    crystals = CrystalBatch.from_structures([ROCKSALT, CESIUM_CHLORIDE])
    labels = Labels(
        crystals.species, crystals.pos, crystals.cell, crystals.n_atoms, torch.tensor([-27.0, -6.0]).double(),
        torch.zeros_like(crystals.pos), torch.zeros(2, 3, 3), torch.zeros(2, dtype=torch.long),
    )  # fmt: skip
    student = distill.new_student(labels, ["Na", "Cl"])
    student.save(tmp_path / "student")
    loaded = matgl.load_model(tmp_path / "student")
    assert loaded.model.element_types == ("Na", "Cl")
    weights = student.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in loaded.state_dict().items())
    assert sum((tmp_path / "student" / file).stat().st_size for file in ("state.pt", "model.pt", "model.json")) < 1.5e6
