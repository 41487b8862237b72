"""One's own crystals, relaxed, ranked and evaluated: in Python and by `omatg-ray relax`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ase.build import bulk
from pymatgen.core import Lattice, Structure

import omatg_ray as og
from omatg_ray.commands.ranked import ORDERED, RAISED, legend, listing, summary
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.read import read_dataset
from omatg_ray.crystal.write import write_structures
from omatg_ray.errors import ConfigError, DataError, PotentialError
from tests.commands.conftest import Command, Workshop
from tests.commands.test_generate import Spring, Stiff
from tests.small import rock_salt

CSCL_SITES = [[0, 0, 0], [0.5, 0.5, 0.5]]
COLLAPSED = Structure(Lattice.cubic(0.3), ["Na", "Cl"], CSCL_SITES)


def salt(a: float, shift: float = 0.0) -> Structure:
    """NaCl in the structure of CsCl, a minimum of `Spring` for a = 4 Å without a shift."""
    return Structure(Lattice.cubic(a), ["Na", "Cl"], [[0, 0, 0], [0.5 + shift, 0.5, 0.5]])


@pytest.fixture
def spring(monkeypatch: pytest.MonkeyPatch) -> Spring:
    monkeypatch.setattr("omatg_ray.reward.energy.load_potential", lambda *_: Spring())
    return Spring()


def test_relax_goes_to_the_minimum_in_the_given_order_and_leaves_invalid_crystals_alone(spring: Spring) -> None:
    done = og.relax([salt(4.2, 0.03), COLLAPSED, salt(3.8)], "spring", steps=300)
    assert done.converged.tolist() == [True, False, True]
    assert done.energy_per_atom[[0, 2]].tolist() == pytest.approx([-1.0, -1.0], abs=1e-3)
    start = spring.energies(CrystalBatch.from_structures([salt(4.2, 0.03), salt(3.8)])) / 2
    torch.testing.assert_close(done.drop_per_atom[[0, 2]], start - done.energy_per_atom[[0, 2]], atol=1e-6, rtol=0)
    assert done.energy_per_atom[1].isnan() and done.steps[1] == 0
    assert done.crystals.to_structures()[1].lattice.a == pytest.approx(0.3)
    assert done.crystals.to_structures()[0].lattice.a == pytest.approx(4.0, abs=0.01)
    assert [row["relaxation"] for row in done.properties] == ["converged", "none", "converged"]
    assert og.relax(salt(4.2), "spring", steps=0).steps.tolist() == [0]


def test_rank_drops_copies_and_invalid_ones_and_gives_the_best_first(spring: Spring) -> None:
    given = [salt(4.4, 0.5), salt(4.1), COLLAPSED, salt(4.0)]
    as_given = og.rank(given, "spring", workers=0)
    assert [row["material_id"] for row in as_given.properties] == ["4", "1"]
    assert [row["copies"] for row in as_given.properties] == [2, 1]
    assert [row["rank"] for row in as_given.properties] == [1, 2]
    assert as_given.properties[0]["energy_per_atom"] == pytest.approx(-1.0)
    assert (as_given.asked, as_given.invalid) == (4, 1)
    relaxed = og.rank(given, "spring", relax=400, workers=0)
    assert [(row["copies"], row["space_group"]) for row in relaxed.properties] == [(3, "Pm-3m")]
    assert summary(relaxed) == "4 given, 1 invalid, 1 unique"
    assert listing(relaxed).endswith(f"x3  in domain: unknown  {relaxed.properties[0]['material_id']}")


def test_a_space_group_that_depends_on_the_tolerance_is_shown_with_the_other_one(spring: Spring) -> None:
    """Chlorine 0.075 Å off its site along a, so 0.15 Å off its mirror image: P4mm to less than that, Pm-3m to more."""
    given = [salt(4.0, 0.075 / 4.0), salt(4.0)]
    (loose,) = og.rank(given[:1], "spring", workers=0).properties
    assert (loose["space_group"], loose["symmetry_tolerance"]) == ("P4mm", 0.1)
    assert (loose["space_group_looser"], loose["space_group_looser_number"]) == ("Pm-3m", 221)
    found = og.rank(given[:1], "spring", workers=0)
    assert "  P4mm, Pm-3m to 0.2 A x1  " in listing(found)
    assert legend(found).startswith("space groups: to 0.1 A (and to 0.2 A, where it is another), of")
    for sure in (og.rank(given[1:], "spring", workers=0), og.rank(given[:1], "spring", symprec=0.2, workers=0)):
        assert sure.properties[0]["space_group"] == sure.properties[0]["space_group_looser"] == "Pm-3m"
        assert "  Pm-3m      x1  " in listing(sure) and "where it is another" not in legend(sure)


@pytest.mark.parametrize("symprec", [None, 0.2])
def test_standard_cells_whose_groups_depend_on_the_tolerance_are_named(
    workshop: Workshop, command: Command, tmp_path: Path, symprec: float | None
) -> None:
    file, out = tmp_path / "mine.extxyz", tmp_path / "out.cif"
    write_structures(file, [salt(4.0, 0.075 / 4.0), Structure(Lattice.cubic(3.0), ["K", "F"], CSCL_SITES)])
    words = ["--potential", workshop.potential, "--steps", "0", "--workers", "0", "--quiet", "--out", out]
    words += ["--standardize", "conventional", *([] if symprec is None else ["--symprec", symprec])]
    done = command("relax", file, *words)
    assert done.code == 0, done.err
    group, tolerance = ("P 4 m m", "0.1") if symprec is None else ("P m -3 m", "0.2")
    assert f"_space_group_name_H-M_alt   '{group}'" in out.read_text()
    assert f"symprec {tolerance} Angstrom" in out.read_text() and "not standardized" not in done.err
    assert (
        "the space groups of NaCl depend on the tolerance (0.1 A; others to 0.2 A): relax further, or --symprec 0.2"
        in done.err
    ) is (symprec is None)
    (first, _) = read_dataset(out, reduce=False).properties
    assert (first["space_group"], first["space_group_looser"]) == ("P4mm" if symprec is None else "Pm-3m", "Pm-3m")


def test_a_crystal_that_relaxed_against_the_second_potential_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    potentials = {"spring": Spring(), "stiff": Stiff()}
    monkeypatch.setattr("omatg_ray.reward.energy.load_potential", lambda name, _: potentials[name])
    agreeing = og.rank(salt(4.6), "spring", relax=200, second_potential="stiff", workers=0)
    (row,) = agreeing.properties
    assert row["second_relax_drop"] == pytest.approx(1.5 * row["relax_drop"], abs=1e-4)
    assert row["disputed"] is False
    monkeypatch.setattr(Stiff, "factor", -1.0)
    found = og.rank(salt(4.6), "spring", relax=200, second_potential="stiff", workers=0)
    (row,) = found.properties
    # 0.03 (4.6² - 4²)² / 2 above the minimum
    assert row["relax_drop"] == pytest.approx(0.03 * 5.16**2 / 2, abs=1e-3)
    assert row["second_relax_drop"] == pytest.approx(-row["relax_drop"], abs=1e-4)
    assert row["disputed"] is True and listing(found).endswith(" ?")
    assert f" second +0.0000 drop {row['relax_drop']:+.4f} second {row['second_relax_drop']:+.4f}  Pm-3m" in listing(
        found
    )
    assert "drop: eV/atom by which the relaxation lowered the energy, by either potential" in legend(found).splitlines()
    assert legend(found).splitlines()[-2:] == [ORDERED, RAISED]
    unrelaxed = og.rank(salt(4.6), "spring", second_potential="stiff", workers=0)
    assert unrelaxed.properties[0]["disputed"] is False and "drop" not in legend(unrelaxed) + listing(unrelaxed)


CHLORATE = Structure.from_spacegroup(
    "P2_13",
    Lattice.cubic(6.575),
    ["Na", "Cl", "O"],
    [[0.0668] * 3, [0.418] * 3, [0.3027, 0.5931, 0.5038]],
)


def test_crystals_that_relaxed_far_are_named_where_nothing_else_judges_them(spring: Spring) -> None:
    with pytest.warns(UserWarning, match=r"relaxed far from where it was: 1 \(NaCl: 0\.40 eV/atom lower\); check with"):
        og.rank(salt(4.6), "spring", relax=200, workers=0)
    og.rank(salt(4.4), "spring", relax=200, workers=0)  # 0.17 eV/atom


def test_a_crystal_whose_bonds_a_potential_breaks_is_named() -> None:
    """The potential of bundled-prototypes saw no chlorates, and stretches their bonds of 1.49 Å."""
    with pytest.warns(UserWarning, match=r"relaxed far .*: 1 \(NaClO3: .*, Cl-O 1\.49 -> 1\.[789]\d A\)"):
        found = og.rank(CHLORATE, "bundled-prototypes", relax=20, workers=0)
    assert found.properties[0]["relax_bonds"].startswith("Cl-O 1.49 -> 1.")


def test_what_cannot_be_ranked_is_refused(spring: Spring) -> None:
    with pytest.raises(DataError, match="none of the 1 crystals is valid"):
        og.rank(COLLAPSED, "spring")
    with pytest.raises(ConfigError, match="relax"):
        og.rank(salt(4.0), None, relax=3)
    assert og.rank(salt(4.0), None, workers=0).properties[0]["energy_per_atom"] is None


def test_elements_that_the_potential_does_not_know_are_named(workshop: Workshop) -> None:
    for call in (og.relax, og.rank, lambda given, potential: og.evaluate(given, potential=str(potential))):
        with pytest.raises(PotentialError, match="Xe"):
            call([bulk("Xe", "fcc", a=6.2, cubic=False)], workshop.potential)


def test_crystals_are_compared_with_the_references_of_their_composition(spring: Spring) -> None:
    rock = rock_salt(5.6)
    references = [salt(4.0), salt(4.3), Structure(Lattice.cubic(4.0), ["Na", "Na"], CSCL_SITES)]
    other = Structure(Lattice.cubic(4.0), ["Cl", "Cl"], CSCL_SITES)
    given = [salt(4.1), COLLAPSED, other]
    found = og.evaluate(given, references, potential="spring", workers=0)
    metrics = found.metrics
    assert (metrics.n, metrics.same_composition) == (3, 2)
    assert metrics.match_rate == pytest.approx(1 / 2)  # of the two that have references
    assert metrics.invalid_share == pytest.approx(1 / 3)
    lowest = float(spring.energies(CrystalBatch.from_structures([salt(4.0)]))) / 2
    ours = float(spring.energies(CrystalBatch.from_structures([salt(4.1)]))) / 2
    assert metrics.relative_energy_mean == pytest.approx(ours - lowest)
    assert metrics.relative_energy_mean_capped == pytest.approx((ours + 3.0) / 2 - lowest)
    # Both references match equally well up to their volumes, which StructureMatcher scales; each is found.
    assert metrics.metre == 1.0
    rows = found.as_dict()["per_structure"]
    assert rows["id"] == ["1", "2", "3"] and rows["lowest_polymorph"] == ["1", "1", None]
    assert [row is None for row in rows["relative_energy"]] == [False, True, True]
    assert og.evaluate(rock, references, potential="none", workers=0).metrics.match_rate == 0.0


def test_without_common_compositions_only_the_crystals_themselves_are_measured(spring: Spring) -> None:
    with pytest.warns(UserWarning, match="no reference has a composition"):
        found = og.evaluate(salt(4.0), [bulk("Na")], potential="spring", workers=0)
    assert found.metrics.match_rate is None and found.metrics.relative_energy_mean is None
    assert (found.metrics.energy_mean, found.metrics.unique_share) == (pytest.approx(-1.0), 1.0)
    assert found.as_dict()["metrics"]["invalid_share"] == 0.0


@pytest.mark.filterwarnings("ignore:outside of the training data")
def test_a_model_is_measured_as_by_the_command(
    base: Path, workshop: Workshop, command: Command, tmp_path: Path
) -> None:
    words = ["--data", workshop.data, "--limit", "3", "--steps", "4", "--schedule", "linear:pos=2", "--workers", "0"]
    out = tmp_path / "out.json"
    done = command("evaluate", base, *words, "--potential", workshop.potential, "--quiet", "--json", out)
    assert done.code == 0, done.err
    rows = json.loads(out.read_text())["per_structure"]
    options: dict[str, Any] = {"potential": str(workshop.potential), "steps": 4, "limit": 3, "workers": 0}
    for model, references in (
        (base, workshop.data),
        (og.FlowModel.load(base), read_dataset(workshop.data)),
    ):
        found = og.evaluate(model, references, schedule="linear:pos=2", **options)
        assert json.loads(json.dumps(found.as_dict()["per_structure"])) == rows
    with pytest.raises(ConfigError, match="references: name known crystals"):
        og.evaluate(base)


@pytest.mark.parametrize("name", ["out.extxyz", "out.cif", "out.json", "crystals/"])
def test_the_command_lists_and_writes_what_rank_returns(
    workshop: Workshop, command: Command, tmp_path: Path, name: str
) -> None:
    (tmp_path / "in").mkdir()
    file, target = tmp_path / "in" / "mine.extxyz", f"{tmp_path}/{name}"
    write_structures(file, [salt(3.4), salt(3.3), Structure(Lattice.cubic(3.0), ["K", "F"], CSCL_SITES)])
    words = ["--potential", workshop.potential, "--steps", "2", "--workers", "0", "--quiet", "--out", target]
    done = command("relax", file, *words)
    assert done.code == 0, done.err
    expected = og.rank(file, workshop.potential, relax=2, workers=0)
    assert listing(expected) in done.out
    assert done.out.splitlines()[-1] == f"{summary(expected)}, written to {target}"
    energies = [row["energy_per_atom"] for row in read_dataset(target, allow_overlaps=True).properties]
    assert energies == pytest.approx([row["energy_per_atom"] for row in expected.properties])


def test_a_file_for_one_crystal_is_refused_for_several_compositions(
    workshop: Workshop, command: Command, tmp_path: Path
) -> None:
    done = command("relax", workshop.data, "--out", tmp_path / "POSCAR", "--quiet")
    done.refuses("it holds one crystal", "compositions; --out folder/ --format vasp writes all")


def test_unusable_crystals_of_a_file_are_refused_or_skipped(
    workshop: Workshop, command: Command, tmp_path: Path
) -> None:
    file = tmp_path / "mine.json"
    disordered = Structure(Lattice.cubic(4.0), [{"Na": 0.5, "K": 0.5}, "Cl"], CSCL_SITES)
    file.write_text(json.dumps([structure.as_dict() for structure in (salt(4.0), disordered)]))
    words = ["--potential", workshop.potential, "--steps", "0", "--workers", "0", "--quiet"]
    words += ["--out", tmp_path / "out.json"]
    command("relax", file, *words).refuses("row 2", "disordered", "relax: --on-error skip", code=1)
    done = command("relax", file, *words, "--on-error", "skip")
    assert done.code == 0 and "1 of 2 crystals" in done.err
    assert [row["formula"] for row in json.loads((tmp_path / "out.json").read_text())] == ["NaCl"]
