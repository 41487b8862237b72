"""`scripts/assets`: the parts whose results can be known otherwise."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spglib
import torch
from pymatgen.core import Composition, Element, Lattice, Structure

from omatg_ray.crystal.batch import CrystalBatch
from tests import small
from tests.evaluate.sodium_chloride import POLYMORPHS, caesium_chloride, litharge, rattled, rock_salt, wurtzite

ROCKSALT = small.rock_salt()
# Prototypes whose salts are counted; building one takes a moment.
SOME = ("rocksalt", "fluorite", "rutile", "corundum", "NaFeO2", "ilmenite", "spinel", "K2NiF4", "K2PtCl6", "elpasolite")
CESIUM_CHLORIDE = caesium_chloride()


def test_samples_are_counted_by_the_polymorphs_that_they_match() -> None:
    """Two samples of each of two cells: rock salt and an invalid one, wurtzite and litharge."""
    from diversity import COMPARED, measure

    invalid = Structure(Lattice.cubic(0.5), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    made = CrystalBatch.from_structures([rattled(rock_salt()), invalid, rattled(wurtzite()), rattled(litharge())])
    energies = [-1.0, -2.0, -1.0, -2.0, 0.0], [-2.0, -1.0, -1.0, -2.0, 0.0]
    row = measure(made, POLYMORPHS.crystals, *energies, [(0, 1), (2, 3)], k=2, workers=0)
    assert row["valid"] == 0.75
    each = {key: row[key]["each"] for key in COMPARED}
    lowest = {"lowest": [0.0, 0.5], "judged": [0.5, 0.5]}
    assert each == {"any": [0.5, 1.0], **lowest, "unique": [1.0, 2.0], "coverage": [0.5, 1.0]}
    assert all(row[key]["mean"] == sum(each[key]) / 2 for key in COMPARED)
    assert (row["any"]["low"], row["any"]["high"]) == (0.5, 1.0)


def test_samples_are_weighed_against_the_lowest_known_crystal() -> None:
    from diversity import energies_above

    known, made = torch.tensor([-3.0, -4.0, -1.0]), torch.tensor([-4.0, -3.0, math.nan, 7.0, -0.5, -1.5])
    row = energies_above(made, known, [(0, 1), (2,)], cap=3.0)
    assert row["energy"]["each"] == [pytest.approx((0 + 1 + 7) / 3), pytest.approx((4 + 0.5 - 0.5) / 3)]
    assert row["best"]["each"] == [0.0, -0.5]
    assert {k: best["each"] for k, best in row["best_of"].items()} == {1: [0.0, 4.0], 2: [0.0, 0.5]}


@pytest.mark.long
def test_diversity_is_measured_after_a_relaxation_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from diversity import COMPARED, main

    out = tmp_path / "out.json"
    words = "diversity.py --models bundled --steps 5 -k 2 --limit 3 --workers 0 --relax 4 --out"
    monkeypatch.setattr("sys.argv", [*words.split(), str(out)])
    main()
    row = json.loads(out.read_text())["bundled"]
    assert row["relaxed"]["relax"] == 4 and 0 < row["relaxed"]["steps"] <= 4
    assert all(len(row["relaxed"][key]["each"]) == len(row[key]["each"]) == 3 for key in COMPARED)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:3]] == ["bundled", "relaxed,"]


@pytest.mark.long
def test_every_prototype_has_the_space_group_that_it_names() -> None:
    from larger_decorations import EVERY_PROTOTYPE
    from prototypes import PROTOTYPES

    numbers = {"A": 11, "B": 22, "C": 55, "X": 8}
    elements = {"A": "Na", "B": "Ti", "C": "Cs", "X": "O"}
    for name, prototype in EVERY_PROTOTYPE.items():
        structure = prototype.structure(elements)
        found = spglib.get_symmetry_dataset(
            (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers), symprec=1e-3
        )
        assert found.international == prototype.space_group, name
        assert 2 <= len(structure) <= (20 if name in PROTOTYPES else 52)
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


def test_salts_are_charge_neutral() -> None:
    """With usual oxidation states, counted from the atoms of the decorated prototypes."""
    from decorations import candidates
    from prototypes import PROTOTYPES

    states = {
        **dict.fromkeys(["Li", "Na", "K", "Rb", "Cs"], 1), **dict.fromkeys(["Mg", "Ca", "Sr", "Ba", "Zn", "Cd"], 2),
        **dict.fromkeys(["Al", "Ga", "Sc", "Y", "La"], 3), **dict.fromkeys(["Zr", "Si"], 4),
        **dict.fromkeys(["F", "Cl", "Br", "I"], -1), "O": -2,
    }  # fmt: skip
    contents = {name: PROTOTYPES[name].contents() for name in SOME}
    checked = 0
    for candidate in candidates():
        elements = dict(candidate.elements)
        known = set(elements.values()) <= set(states) and states[elements["X"]] < 0
        if candidate.prototype in SOME and known:
            charges = [count * states[elements[label]] for label, count in contents[candidate.prototype].items()]
            assert sum(charges) == 0, candidate.ident
            checked += 1
    assert checked > 100


def test_candidates_are_distinct_and_many() -> None:
    from decorations import candidates

    found = candidates()
    assert len({candidate.ident for candidate in found}) == len(found) > 5000
    # The prototypes of a composition stay together, so that a run that is cut short has whole compositions.
    formulas = [candidate.ident.split("-")[0] for candidate in found]
    changes = sum(a != b for a, b in itertools.pairwise(formulas))
    assert changes == len(set(formulas)) - 1


def test_larger_candidates_are_neutral_and_cover_the_periodic_table() -> None:
    """All salts of halogens and chalcogens but the cuprate, with usual oxidation states."""
    from decorations import candidates
    from larger_decorations import EVERY_PROTOTYPE, LARGER_FAMILIES

    # Where pymatgen's list of common states lacks one of compounds that exist.
    more: dict[str, tuple[int, ...]] = {
        "Ac": (3,), "Bi": (3, 5), "Br": (5, -1), "C": (4,), "Ce": (3, 4), "Cl": (5, 7, -1), "Co": (2, 3), "Cr": (3, 6),
        "Cu": (1, 2), "Eu": (2, 3), "Fe": (2, 3), "I": (5, 7, -1), "Ir": (3, 4), "Mn": (2, 3, 4, 7), "Mo": (3, 4, 6),
        "Nb": (4, 5), "Np": (3, 4), "Os": (4, 5, 6), "Pa": (4, 5), "Pu": (3, 4), "Re": (4, 5, 6, 7), "Rh": (3, 4),
        "Ru": (3, 4, 5), "S": (6, -2), "Se": (6, -2), "Tc": (4, 7), "Te": (4, 6, -2), "Ti": (3, 4), "Tl": (1, 3),
        "U": (3, 4, 5, 6), "V": (3, 4, 5), "W": (3, 4, 6), "Yb": (2, 3),
    }  # fmt: skip
    found = candidates(families=LARGER_FAMILIES, prototypes=EVERY_PROTOTYPE)
    checked: Counter[str] = Counter()
    for candidate in found:
        anion = dict(candidate.elements)["X"]
        if anion not in ["O", "F", "Cl", "Br", "I", "S", "Se", "Te"] or candidate.prototype == "YBa2Cu3O7":
            continue
        counts = Composition(candidate.formula).get_el_amt_dict()
        states = {symbol: more.get(symbol) or Element(symbol).common_oxidation_states for symbol in counts}
        states[anion] = (min(states[anion]),)
        charges = [
            sum(state * count for state, count in zip(choice, counts.values(), strict=True))
            for choice in itertools.product(*(states[symbol] for symbol in counts))
        ]
        assert 0 in charges, candidate.ident
        checked[candidate.prototype] += 1
    assert len(checked) > 60 and sum(checked.values()) > 4000
    assert len({symbol for one in found for _, symbol in one.elements}) >= 80
    sizes = {name: sum(prototype.contents().values()) for name, prototype in EVERY_PROTOTYPE.items()}
    assert sum(20 <= sizes[one.prototype] <= 52 for one in found) > 1000
    assert len({one.ident for one in found}) == len(found)


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

    def training(folder: str, epochs: int, seed: int = 0) -> distill.Distillation:
        torch.manual_seed(seed)
        student = distill.new_student(labels, symbols)
        data = distill.examples(labels, distill.node_types(symbols), "graphs")
        made = distill.Distillation(student, data, data, tmp_path / folder, epochs, 2e-3, 0)
        made.steps = 40
        made.run()
        return made

    whole = training("whole", 2)
    training("parts", 1)
    # Other weights to begin with, which a run that goes on does not keep.
    parts = training("parts", 2, seed=1)
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, parts.average.state_dict()[name]), name
    log = [json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == [1, 2]
    assert log[1]["energy_rattled"] < log[0]["energy_rattled"]


def at_rest(structures: list[Structure], energies: list[float]) -> Any:
    """Labels of relaxed crystals with these energies in eV, without forces and stresses."""
    from teacher import Labels

    crystals, n = CrystalBatch.from_structures(structures), len(structures)
    return Labels(
        crystals.species, crystals.pos, crystals.cell, crystals.n_atoms, torch.tensor(energies).double(),
        torch.zeros_like(crystals.pos), torch.zeros(n, 3, 3), torch.zeros(n, dtype=torch.long),
    )  # fmt: skip


def test_student_is_saved_in_the_format_of_matgl(tmp_path: Path) -> None:
    import distill
    import matgl

    labels = at_rest([ROCKSALT, CESIUM_CHLORIDE], [-27.0, -6.0])
    student = distill.new_student(labels, ["Na", "Cl"])
    student.save(tmp_path / "student")
    loaded = matgl.load_model(tmp_path / "student")
    assert loaded.model.element_types == ("Na", "Cl")
    weights = student.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in loaded.state_dict().items())
    assert sum((tmp_path / "student" / file).stat().st_size for file in ("state.pt", "model.pt", "model.json")) < 1.5e6


def test_a_student_with_more_elements_starts_as_one_with_fewer() -> None:
    """What it knows keeps its energy; K starts as Na, apart from the energy of an atom, and Br as Cl."""
    import distill

    def energy_per_atom(student: torch.nn.Module, symbols: list[str], crystal: Structure) -> float:
        one = at_rest([crystal], [0.0])
        (example,) = distill.examples(one, distill.node_types(symbols), "graphs")
        return distill.errors(student, [example])["energy"][0].item()

    salt, other = ROCKSALT.copy(), ROCKSALT.copy()
    other.replace_species({"Na": "K"})
    both = other.copy()
    both.replace_species({"Cl": "Br"})
    torch.manual_seed(0)
    start = distill.new_student(at_rest([salt, CESIUM_CHLORIDE], [-24.0, -5.8]), ["Na", "Cl"])
    given = at_rest([salt, other, both], [-24.0, -28.0, -20.0])
    student = distill.with_elements(start, given, ["Na", "Cl", "K", "Br"])
    known = energy_per_atom(start, ["Na", "Cl"], salt)
    found = [energy_per_atom(student, ["Na", "Cl", "K", "Br"], crystal) for crystal in (salt, other, both)]
    # The labels differ by half an electronvolt per atom, which a fit to shares of elements finds.
    assert found == pytest.approx([known, known - 0.5, known + 0.5], abs=0.02)
    nearest = {symbol: distill.nearest(symbol, ["Li", "Na", "Sc", "O", "Cl"]) for symbol in ("K", "Br", "La", "Gd")}
    assert nearest == {"K": "Na", "Br": "Cl", "La": "Sc", "Gd": "Sc"}


def test_a_potential_is_judged_by_size_and_with_molecular_anions() -> None:
    import check_potential as check

    cells = [[11, 17], [20, 6, 8, 8, 8], [12] * 11 + [8], [29] * 30]
    crystals = CrystalBatch(
        torch.tensor([z for cell in cells for z in cell]), torch.rand(49, 3), torch.eye(3).repeat(4, 1, 1),
        torch.tensor([len(cell) for cell in cells]),
    )  # fmt: skip
    found = check.by_contents(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.1, 2.3, 3.5, 4.7]), crystals)
    shown = {name: (values["n"], round(values["mae"], 3)) for name, values in found.items()}
    assert shown == {
        "1 to 10": (2, 0.2), "11 to 20": (1, 0.5), "21 and more": (1, 0.7), "O and what makes anions with it": (1, 0.3),
    }  # fmt: skip
    assert [len(check.spread(count)) for count in (1, 114, 115, 454, 1546)] == [1, 114, 58, 114, 111]


def test_the_domain_of_a_student_is_that_of_its_labels(tmp_path: Path) -> None:
    import adopt
    from identity import fingerprint

    labels = at_rest([ROCKSALT, CESIUM_CHLORIDE], [-27.0, -6.0])
    (tmp_path / "labels").mkdir()
    labels.save(tmp_path / "labels" / "part.safetensors")
    told = {"labels": fingerprint(tmp_path / "labels" / "part.safetensors")}
    (tmp_path / "inputs.json").write_text(json.dumps(told))
    domain = adopt.of_labels([tmp_path / "labels"], tmp_path)
    assert domain.crystals == 2 and domain.partners == {"Na": "Cl", "Cl": "Na"} and not domain.sizes
    labels.select(torch.tensor([0])).save(tmp_path / "labels" / "part.safetensors")
    with pytest.raises(SystemExit, match="distilled from other labels"):
        adopt.of_labels([tmp_path / "labels"], tmp_path)


def test_labels_far_above_and_below_the_relaxed_crystals_are_left_out(tmp_path: Path) -> None:
    import distill
    from configurations import KINDS
    from teacher import Labels

    crystals = CrystalBatch.from_structures([CESIUM_CHLORIDE] * 5)
    per_atom = torch.tensor([-3.0, -2.0, -3.05, -3.5, 10.0], dtype=torch.float64)
    kinds = torch.tensor([KINDS.index(name) for name in ("relaxed", "rattled", "strained", "strained", "random")])
    zeros = torch.zeros_like(crystals.pos)
    labels = Labels(
        crystals.species,
        crystals.pos,
        crystals.cell,
        crystals.n_atoms,
        2 * per_atom,
        zeros,
        torch.zeros(5, 3, 3),
        kinds,
    )
    torch.testing.assert_close(distill.above_lowest(labels), per_atom + 3.0)
    labels.save(tmp_path / "part.safetensors")
    assert distill.read(tmp_path).energy_per_atom.tolist() == pytest.approx([-3.0, -2.0, -3.05])


def test_compositions_without_a_relaxed_crystal_count_from_their_lowest(tmp_path: Path) -> None:
    import distill
    from configurations import KINDS
    from teacher import Labels

    crystals = CrystalBatch.from_structures([CESIUM_CHLORIDE] * 3)
    labels = Labels(
        crystals.species, crystals.pos, crystals.cell, crystals.n_atoms, torch.tensor([-6.0, -5.0, 30.0]).double(),
        torch.zeros_like(crystals.pos), torch.zeros(3, 3, 3), torch.full((3,), KINDS.index("decorated")),
    )  # fmt: skip
    assert distill.above_lowest(labels).tolist() == pytest.approx([0.0, 0.5, 18.0])
    labels.save(tmp_path / "part.safetensors")
    assert len(distill.read(tmp_path).energy) == 2


@pytest.mark.long
def test_further_candidates_are_of_other_compositions_than_the_bundled_crystals() -> None:
    from label_decorated import further_candidates

    from omatg_ray.assets import crystals
    from omatg_ray.crystal.read import read_dataset

    found = further_candidates()
    known = {
        structure.composition.reduced_formula
        for split in ("train", "val", "test")
        for structure in read_dataset(crystals(split)).crystals.to_structures()
    }
    assert len(found) > 10_000 and not known & {
        candidate.structure().composition.reduced_formula for candidate in found[::500]
    }
    assert len({candidate.formula for candidate in found}) > 4000


def test_the_best_of_a_few_volumes() -> None:
    """With an energy that is lowest at a known volume, and a volume at which atoms are too close."""
    from label_decorated import best_volumes

    class Well:
        """E = (V − V_0)²."""

        def energies(self, crystals: CrystalBatch) -> torch.Tensor:
            return (crystals.cell.det().double() - 1.2 * CESIUM_CHLORIDE.volume).square()

    squeezed = CESIUM_CHLORIDE.copy()
    squeezed.scale_lattice(3.0)
    crystals, found = best_volumes(CrystalBatch.from_structures([CESIUM_CHLORIDE, squeezed]), Well())  # type: ignore[arg-type]
    assert found.tolist() == [True, False]
    assert float(crystals.cell[0].det()) == pytest.approx(1.2 * CESIUM_CHLORIDE.volume, rel=1e-5)


def test_crystals_with_atoms_too_close_are_not_labelled() -> None:
    """Na and Cl are 1.66 and 1.02 Å in radius: 1.34 Å is half their bond."""
    from configurations import usable

    cell = 12.0 * torch.eye(3)[None]
    pairs = [
        CrystalBatch(
            torch.tensor([11, 17]), torch.tensor([[0.0, 0, 0], [distance / 12, 0, 0]]), cell, torch.tensor([2])
        )
        for distance in (0.4, 1.33, 1.35, 2.8)
    ]
    assert usable(CrystalBatch.cat(pairs)).tolist() == [False, False, True, True]


def test_a_torn_last_line_is_cut_off_the_file(tmp_path: Path) -> None:
    from relax import whole_lines

    path = tmp_path / "relaxed.jsonl"
    assert whole_lines(path) == []
    path.write_text('{"id": 1}\n{"id": 2}\n{"id"')
    assert whole_lines(path) == ['{"id": 1}', '{"id": 2}']
    assert path.read_text() == '{"id": 1}\n{"id": 2}\n'


def test_results_of_other_inputs_are_refused(tmp_path: Path) -> None:
    from identity import require_same

    require_same(tmp_path / "made" / "inputs.json", {"potential": "a", "epochs": 2})
    require_same(tmp_path / "made" / "inputs.json", {"potential": "a", "epochs": 2})
    with pytest.raises(SystemExit, match="another epochs"):
        require_same(tmp_path / "made" / "inputs.json", {"potential": "a", "epochs": 3})


@pytest.mark.long
def test_the_domain_of_the_bundled_potential_is_that_of_the_candidates_it_was_distilled_on() -> None:
    """Their number of compositions is on its card."""
    from domain import of_potential
    from label_decorated import further_candidates

    from omatg_ray.assets import root
    from omatg_ray.crystal.domain import DOMAIN_FILE, Domain
    from omatg_ray.run.location import PROTOTYPES

    further = further_candidates()[:10_000]
    assert len({candidate.formula for candidate in further}) == 2678
    assert Domain.model_validate_json((root(PROTOTYPES) / "potential" / DOMAIN_FILE).read_text()) == of_potential()
