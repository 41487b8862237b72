"""Standard cells are the same crystals, with the symmetry that they state, for this package and for other readers."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
import pytest
import spglib
from ase.io import read as read_by_ase
from pymatgen.core import Lattice, PeriodicSite, Structure
from pymatgen.core.structure_matcher import StructureMatcher
from pymatgen.io.cif import CifParser
from pymatgen.io.vasp import Poscar

from omatg_ray.commands.write_crystals import write_crystals
from omatg_ray.crystal import standard_cell
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.read import read_dataset
from omatg_ray.crystal.standard import right_handed, standardize
from omatg_ray.crystal.standard_cell import NotStandard, standard_crystal
from omatg_ray.crystal.standard_crystal import CELLS, SYMPREC, CellKind, StandardCrystal
from omatg_ray.crystal.write import write_structures
from omatg_ray.errors import DataWarning

pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # spglib, about itself


def expanded(group: str, lattice: Lattice, species: list[str], sites: list[list[float]]) -> Structure:
    """A crystal in its primitive cell, in another order of atoms and slightly rattled, as generated ones are."""
    operations = gemmi.SpaceGroup(group).operations()
    full = Structure(lattice, [], [])
    for symbol, site in zip(species, sites, strict=True):
        for operation in operations:  # as Structure.from_spacegroup does it in seconds
            image = PeriodicSite(symbol, operation.apply_to_xyz(site), lattice, to_unit_cell=True)
            if all(image.distance(other) > 0.01 for other in full):
                full.append(symbol, image.frac_coords)
    structure = full.get_primitive_structure()
    structure = right_handed(Structure.from_sites(structure.sites[::-1]))
    rng = np.random.default_rng(0)
    shifts = rng.normal(scale=0.003, size=(len(structure), 3)) @ np.linalg.inv(structure.lattice.matrix)
    return Structure(structure.lattice, structure.species, structure.frac_coords + shifts + 0.07)


# name: space group, atoms in the conventional and in the primitive cell, sites of the asymmetric unit, crystal
KNOWN = {
    "rock salt": (225, 8, 2, 2, expanded("F m -3 m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])),
    "quartz": (
        152, 9, 9, 2,
        expanded(
            "P 31 2 1", Lattice.hexagonal(4.91, 5.40), ["Si", "O"], [[0.4697, 0, 1 / 3], [0.4135, 0.2669, 0.4523]]
        ),
    ),
    "Bi2Te3": (
        166, 15, 5, 3,
        expanded(
            "R -3 m:H", Lattice.hexagonal(4.38, 30.5), ["Bi", "Te", "Te"], [[0, 0, 0.4], [0, 0, 0], [0, 0, 0.209]]
        ),
    ),
    "wollastonite-like": (
        15, 20, 10, 3,
        expanded(
            "C 1 2/c 1", Lattice.monoclinic(9.7, 8.9, 5.25, 106), ["Ca", "Si", "O"],
            [[0, 0.3, 0.25], [0.286, 0.093, 0.233], [0.115, 0.087, 0.142]],
        ),
    ),
    "diamond": (227, 8, 2, 1, expanded("F d -3 m:1", Lattice.cubic(3.57), ["C"], [[0, 0, 0]])),
    "triclinic": (
        1, 3, 3, 3,
        Structure(Lattice.from_parameters(4, 5, 6, 80, 95, 101), ["O", "K", "O"], [[0.1, 0.2, 0.3], [0.6, 0.3, 0.1],
                                                                                   [0.3, 0.8, 0.7]]),
    ),
}  # fmt: skip
SAME = StructureMatcher(ltol=0.02, stol=0.02, angle_tol=1, scale=False)


def number_of(structure: Structure) -> int:
    """The space group that spglib finds when it may not be off by more than a file's rounding."""
    cell = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
    return spglib.get_symmetry_dataset(cell, symprec=1e-4).number


def readings(path: Path) -> dict[str, Structure]:
    """The crystal of a CIF as each of four programs reads it."""
    by_gemmi = gemmi.read_small_structure(str(path))
    atoms = by_gemmi.get_all_unit_cell_sites()
    by_ase = read_by_ase(path)
    return {
        "own": read_dataset(path, reduce=False).crystals.to_structures()[0],
        "pymatgen": CifParser(path, check_cif=False).parse_structures(primitive=False, on_error="raise")[0],
        "ase": Structure(by_ase.cell.array, by_ase.numbers, by_ase.get_scaled_positions()),
        "gemmi": Structure(
            Lattice.from_parameters(*by_gemmi.cell.parameters),
            [atom.element.name for atom in atoms],
            [atom.fract.tolist() for atom in atoms],
        ),
    }


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", KNOWN)
def test_every_reader_finds_the_crystal_and_its_space_group(tmp_path: Path, name: str, cell: CellKind) -> None:
    number, conventional, primitive, sites, original = KNOWN[name]
    (standard,) = standardize([original], cell)
    assert isinstance(standard, StandardCrystal)
    assert standard.number == number
    assert len(standard.structure) == (primitive if cell == "primitive" else conventional)
    assert len(standard.sites) == sites
    assert name == "triclinic" or number_of(original) < number == number_of(standard.structure)
    write_structures(tmp_path / "out.cif", [standard], [{"energy": -1.5}])
    text = (tmp_path / "out.cif").read_text()
    assert f"_space_group_IT_number   {number}\n" in text
    assert f"# {cell} cell by spglib {spglib.__version__}, symprec 0.1 Angstrom" in text
    for reader, found in readings(tmp_path / "out.cif").items():
        assert len(found) == len(standard.structure), reader
        assert found.composition == standard.structure.composition, reader
        assert SAME.fit(found, original), reader
        own = found.lattice.matrix, found.frac_coords, found.atomic_numbers
        assert spglib.get_symmetry_dataset(own, symprec=1e-3).number == number, reader
    assert read_dataset(tmp_path / "out.cif").properties[0]["energy"] == -1.5


def test_a_conventional_cell_names_its_setting() -> None:
    standard = [standard_crystal(KNOWN[name][-1], "conventional") for name in ("rock salt", "Bi2Te3", "diamond")]
    assert [crystal.symbol for crystal in standard] == ["F m -3 m", "R -3 m:H", "F d -3 m:1"]
    assert standard[0].structure.lattice.parameters == pytest.approx((5.64, 5.64, 5.64, 90, 90, 90), abs=0.02)
    assert standard_crystal(KNOWN["rock salt"][-1], "primitive").symbol is None


@pytest.mark.parametrize("suffix", ["vasp", "extxyz", "json"])
def test_other_formats_hold_all_atoms_and_say_which_cell_it_is(tmp_path: Path, suffix: str) -> None:
    original = KNOWN["rock salt"][-1]
    (standard,) = standardize([original], "conventional")
    write_structures(tmp_path / f"out.{suffix}", [standard])
    dataset = read_dataset(tmp_path / f"out.{suffix}", reduce=False)
    (found,) = dataset.crystals.to_structures()
    assert len(found) == 8 and number_of(found) == 225 and SAME.fit(found, original)
    assert "conventional cell by spglib" in (tmp_path / f"out.{suffix}").read_text()


@pytest.mark.parametrize("cell", CELLS)
def test_a_chiral_crystal_does_not_turn_into_its_mirror_image(cell: CellKind) -> None:
    right = KNOWN["quartz"][-1]
    left = Structure(right.lattice, right.species, -right.frac_coords)
    flipped = Structure(Lattice(-right.lattice.matrix), right.species, -right.frac_coords)
    numbers = [crystal.number for crystal in standardize([right, left, flipped], cell)]  # type: ignore[union-attr]
    assert numbers == [152, 154, 152]
    for crystal in standardize([right, left], cell):
        assert isinstance(crystal, StandardCrystal)
        group = gemmi.find_spacegroup_by_ops(gemmi.GroupOps([gemmi.Op(text) for text in crystal.operations]))
        assert group.number == crystal.number == number_of(crystal.structure)


@pytest.mark.parametrize("cell", CELLS)
def test_atoms_keep_their_handedness_where_the_group_does_not_tell(cell: CellKind) -> None:
    """Four atoms of different elements, one at a corner and three beside it: a triple product that keeps its sign."""
    cart = np.array([[5.0, 5, 5], [6.1, 5, 5], [5, 6.5, 5], [5, 5, 6.9]])
    for vectors in ([[0, 10, 0], [11, 0, 0], [0, 0, 12]], [[0, 0, 12], [11, 0, 0], [0, 10, 0]]):
        original = Structure(Lattice(vectors), ["Cs", "Fe", "S", "O"], cart, coords_are_cartesian=True)
        (standard,) = standardize([original], cell)
        assert isinstance(standard, StandardCrystal)
        sites = {site.specie.symbol: site for site in standard.structure}
        beside = [sites["Cs"].distance_and_image(sites[name])[1] for name in ("Fe", "S", "O")]
        edges = [
            sites[name].frac_coords + image - sites["Cs"].frac_coords
            for name, image in zip(("Fe", "S", "O"), beside, strict=True)
        ]
        triple = np.linalg.det(np.array(edges) @ standard.structure.lattice.matrix)
        assert triple == pytest.approx(1.1 * 1.5 * 1.9, abs=1e-4)


def test_what_would_become_another_crystal_is_kept_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    salt, diamond = KNOWN["rock salt"][-1], KNOWN["diamond"][-1]
    overlapping = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.01, 0, 0]])
    honest = standard_cell.spglib.standardize_cell

    def loses_an_atom(cell, **options):  # type: ignore[no-untyped-def]
        lattice, frac, numbers = honest(cell, **options)
        return (lattice, frac, numbers) if 6 in numbers else (lattice, frac[:-1], numbers[:-1])

    monkeypatch.setattr(standard_cell.spglib, "standardize_cell", loses_an_atom)
    with pytest.warns(DataWarning) as said:
        done = standardize([salt, overlapping, diamond], "conventional")
    (lines,) = (str(w.message).splitlines() for w in said if issubclass(w.category, DataWarning))
    assert lines[0] == "2 of 3 crystals are kept in the cell they had, not standardized:"
    assert lines[1].startswith("  1 (NaCl): ") and lines[2] == "  2 (NaCl): its atoms overlap, or its cell is flat"
    assert done[:2] == [salt, overlapping] and isinstance(done[2], StandardCrystal)

    def moves_atoms(cell, **options):  # type: ignore[no-untyped-def]
        lattice, frac, numbers = honest(cell, **options)
        return 1.1 * lattice, frac, numbers

    monkeypatch.setattr(standard_cell.spglib, "standardize_cell", moves_atoms)
    with pytest.raises(NotStandard, match="has 8 atoms where 10.6 are expected"):
        standard_crystal(diamond, "conventional")


@pytest.mark.processes
def test_worker_processes_give_the_same_cells() -> None:
    crystals = [entry[-1] for entry in KNOWN.values()]
    for here, there in zip(
        standardize(crystals, "primitive"), standardize(crystals, "primitive", workers=1), strict=True
    ):
        assert isinstance(here, StandardCrystal) and isinstance(there, StandardCrystal)
        assert here.operations == there.operations
        np.testing.assert_array_equal(here.structure.frac_coords, there.structure.frac_coords)


def test_the_tolerance_is_that_of_the_space_groups_of_the_package() -> None:
    from omatg_ray.config import Config
    from omatg_ray.evaluate.unique import space_groups

    assert space_groups.__defaults__[0] == Config().reward.symprec == SYMPREC


def test_oxidation_states_do_not_make_it_another_crystal() -> None:
    decorated = KNOWN["rock salt"][-1].copy().add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    (standard,) = standardize([decorated], "conventional")
    assert isinstance(standard, StandardCrystal) and standard.number == 225


@pytest.mark.parametrize(
    ("formula", "z", "cell", "expected"),
    [("Na4Cl4", 1, "primitive", ("NaCl", 1)), ("NaCl", 4, "primitive", ("NaCl", 1)),
     ("Na4Cl4", 1, "conventional", ("Na4Cl4", 1)), ("Na2Cl2", 2, "primitive", ("NaCl", 1)),
     (None, None, "primitive", (None, None))],
)  # fmt: skip
def test_formula_and_units_are_those_of_the_cell_that_is_written(
    tmp_path: Path, formula: str | None, z: int | None, cell: CellKind, expected: tuple[str | None, int | None]
) -> None:
    conventional = standard_crystal(KNOWN["rock salt"][-1], "conventional").structure
    properties = {} if formula is None else {"formula": formula, "z": z}
    write_crystals(tmp_path / "out.extxyz", CrystalBatch.from_structures([conventional]), [properties], cell=cell)
    (found,) = read_dataset(tmp_path / "out.extxyz", reduce=False).properties
    assert (found.get("formula"), found.get("z")) == expected


def test_a_poscar_is_one_crystal_with_its_atoms_grouped(tmp_path: Path) -> None:
    structure = Structure(Lattice([[0, 4, 0], [5, 0, 0], [0.3, 0, 6]]), ["O", "Ti", "O", "Ba"],
                          [[0, 0, 0.1], [0.5, 0.5, 0.5], [0.25, 0.5, 1.3], [0.7, 0.1, 0.8]])  # fmt: skip
    write_structures(tmp_path / "POSCAR", [structure], [{"energy_per_atom": -1.25, "space_group": "P1"}])
    text = (tmp_path / "POSCAR").read_text().splitlines()
    assert text[0] == "BaTiO2; energy_per_atom=-1.25; space_group=P1"
    assert text[5].split() == ["O", "Ti", "Ba"] and text[6].split() == ["2", "1", "1"]
    found = Poscar.from_file(tmp_path / "POSCAR", check_for_potcar=False).structure
    assert found.lattice.matrix == pytest.approx(-structure.lattice.matrix, abs=1e-14)  # left-handed before
    order = [0, 2, 1, 3]
    shift = found.frac_coords + structure.frac_coords[order]
    assert shift == pytest.approx(np.rint(shift), abs=1e-14)


def test_a_folder_of_poscars(tmp_path: Path) -> None:
    crystals = [KNOWN["rock salt"][-1], KNOWN["diamond"][-1]]
    write_structures(f"{tmp_path}/out/", crystals, folder_format="vasp")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["00001_NaCl.vasp", "00002_C.vasp"]
    assert read_dataset(tmp_path / "out").crystals.formulas() == ["NaCl", "C2"]
