"""Random crystals, written in every format and in spellings that files have, are read as what was written."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
from pathlib import Path

import gemmi
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pymatgen.core import Element, Lattice, Structure
from pymatgen.io.vasp import Poscar

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.composition import parse_formula_sum
from omatg_ray.crystal.read import read_dataset
from omatg_ray.crystal.validity import check_validity
from omatg_ray.crystal.write import write_structures

pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # spglib, about itself

TOLERANCE = 2e-6
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16")
# Every property is checked on the same examples each time; without a deadline, since machines differ.
PROFILE = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much]
)


@st.composite
def crystals(draw: st.DrawFn) -> Structure:
    """Up to six atoms, apart from each other, in any order, in cells of any shape, some of them many cells away."""
    lengths = [draw(st.floats(3, 12)) for _ in range(3)]
    angles = [draw(st.floats(65, 115)) for _ in range(3)]
    lattice = Lattice.from_parameters(*lengths, *angles)
    n = draw(st.integers(1, 6))
    species = [draw(st.integers(1, 94)) for _ in range(n)]
    frac = [[draw(st.floats(0, 0.999)) + draw(st.integers(-2, 2)) for _ in range(3)] for _ in range(n)]
    structure = Structure(lattice, [Element.from_Z(z) for z in species], frac)
    assume(bool(check_validity(CrystalBatch.from_structures([structure])).valid))
    return structure


def assert_read(path: Path, expected: list[Structure]) -> None:
    """The crystals of a file have the atoms in order, the lengths and angles, and every distance of those expected."""
    for reduce in (False, True):
        found = read_dataset(path, reduce=reduce).crystals.to_structures()
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.atomic_numbers == theirs.atomic_numbers
            assert ours.volume == pytest.approx(theirs.volume, rel=1e-5)
            assert ours.distance_matrix == pytest.approx(theirs.distance_matrix, abs=1e-4)
            if not reduce:
                assert ours.lattice.parameters == pytest.approx(theirs.lattice.parameters, rel=1e-5)


def cif_text(structure: Structure, number: str, case: str, dots: bool, ending: str) -> str:
    """A CIF of P1 in one of the spellings of files."""
    formula = " ".join(f"{symbol}{amount:g}" for symbol, amount in structure.composition.get_el_amt_dict().items())
    lines = ["data_x", f"_chemical_formula_sum '{formula}'"]
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines += [f"_cell_{name} {value:{number}}" for name, value in zip(names, structure.lattice.parameters, strict=True)]
    lines += ["loop_", "_atom_site_label", "_atom_site_type_symbol", "_atom_site_occupancy"]
    lines += [f"_atom_site_fract_{axis}" for axis in "xyz"]
    tags = {"lower": str.lower, "upper": str.upper, "as it is": str}
    lines = [tags[case](line.split(" ")[0]) + line[len(line.split(" ")[0]) :] for line in lines]
    if dots:
        lines = [line.replace("_site_", "_site.", 1).replace("_cell_", "_cell.", 1) for line in lines]
    for index, site in enumerate(structure):
        xyz = " ".join(f"{x:{number}}" for x in site.frac_coords)
        lines.append(f"{site.specie.symbol}{index} {site.specie.symbol} {'1.' if index % 2 else '.'} {xyz}")
    return ending.join(lines) + ending


@PROFILE
@given(
    crystals(),
    st.sampled_from([".12f", ".10g", ".12e"]),
    st.sampled_from(["lower", "upper", "as it is"]),
    st.booleans(),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(ENCODINGS),
    st.booleans(),
)
def test_cif(
    structure: Structure, number: str, case: str, dots: bool, ending: str, encoding: str, zipped: bool
) -> None:
    data = cif_text(structure, number, case, dots, ending).encode(encoding)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("a.cif.gz" if zipped else "a.cif")
        path.write_bytes(gzip.compress(data) if zipped else data)
        assert_read(path, [structure])


@PROFILE
@given(st.lists(crystals(), min_size=1, max_size=3), st.sampled_from([".extxyz", ".json", ".cif"]))
def test_what_is_written_is_read(structures: list[Structure], suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        write_structures(path, structures)
        assert_read(path, structures)


@PROFILE
@given(crystals(), st.sampled_from([",", ";", "\t"]), st.sampled_from(ENCODINGS), st.sampled_from(["cif", "structure"]))
def test_tables(structure: Structure, delimiter: str, encoding: str, column: str) -> None:
    cell = cif_text(structure, ".10f", "as it is", False, "\n") if column == "cif" else json.dumps(structure.as_dict())
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows([["material_id", "note", column], ["a", "x,y;z", cell]])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_bytes(out.getvalue().encode(encoding))
        assert_read(path, [structure])
        assert read_dataset(path).ids == ["a"]


@PROFILE
@given(crystals(), st.booleans())
def test_poscar(structure: Structure, direct: bool) -> None:
    grouped = structure.get_sorted_structure()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "POSCAR"
        path.write_text(Poscar(grouped).get_str(direct=direct, significant_figures=12))
        assert_read(path, [grouped])


@PROFILE
@given(
    st.sampled_from([s for s in gemmi.spacegroup_table() if s.is_reference_setting()]),
    st.lists(
        st.sampled_from([0, 0.125, 0.25, 0.375, 0.5, 1 / 3, 2 / 3, 0.1303, 0.2171, 0.4137]), min_size=3, max_size=3
    ),
    st.integers(3, 6),
    st.sampled_from(["operations", "name", "hall"]),
)
def test_symmetry(group: gemmi.SpaceGroup, site: list[float], digits: int, said: str) -> None:
    """Operations, name or Hall symbol of any space group give the atoms of an expansion by exact coordinates."""
    cell = _cell_of(group)
    images = {tuple(round(x % 1, 9) % 1 for x in op.apply_to_xyz(site)) for op in group.operations()}
    text = "\n".join(
        [
            "data_x",
            *(
                f"_cell_{name} {value}"
                for name, value in zip(
                    ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma"), cell, strict=True
                )
            ),
            *_symmetry(group, said),
            "_chemical_formula_sum 'Xe'",
            f"_cell_formula_units_Z {len(images)}",
            "loop_\n_atom_site_label\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z",
            f"Xe1 {' '.join(f'{x:.{digits}f}' for x in site)}",
        ]
    )
    structure = Structure(Lattice.from_parameters(*cell), ["Xe"] * len(images), sorted(images))
    assume(bool(check_validity(CrystalBatch.from_structures([structure])).valid))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.cif"
        path.write_text(text)
        found = read_dataset(path, reduce=False).crystals
    assert int(found.n_atoms[0]) == len(images)
    for frac in found.pos.double().numpy():
        difference = np.array(sorted(images)) - frac
        difference -= np.rint(difference)
        assert np.abs(difference).max(1).min() < 2 * 10.0**-digits


def _cell_of(group: gemmi.SpaceGroup) -> list[float]:
    """A cell of 8 to 11 Å with the symmetry of a group in its reference setting."""
    system = group.crystal_system_str()
    if system == "cubic":
        return [10, 10, 10, 90, 90, 90]
    if system in ("hexagonal", "trigonal"):
        return [10, 10, 11, 90, 90, 120]
    if system == "tetragonal":
        return [9, 9, 11, 90, 90, 90]
    return [8, 9, 11, *{"orthorhombic": (90, 90, 90), "monoclinic": (90, 103, 90)}.get(system, (82, 103, 95))]


def _symmetry(group: gemmi.SpaceGroup, said: str) -> list[str]:
    if said == "operations":
        return ["loop_\n_symmetry_equiv_pos_as_xyz", *(f"'{op.triplet()}'" for op in group.operations())]
    if said == "hall":
        return [f"_space_group_name_Hall '{group.hall}'"]
    return [f"_symmetry_space_group_name_H-M '{group.xhm()}'"]


@PROFILE
@given(st.dictionaries(st.integers(1, 94), st.integers(1, 40), min_size=1, max_size=5), st.booleans())
def test_formulas(amounts: dict[int, int], upper: bool) -> None:
    """With an element a word, in upper case or as it should be, a formula gives its amounts."""
    words = [f"{Element.from_Z(z).symbol}{n}" for z, n in amounts.items()]
    assume(len(words) > 1 or not upper)
    text = " ".join(words)
    assert parse_formula_sum(text.upper() if upper else text) == amounts
