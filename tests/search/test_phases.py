from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pymatgen.core import Lattice, Structure

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.write import write_structures
from omatg_ray.errors import ConfigError
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.search.phases import Phases
from tests.commands.conftest import Workshop, workshop
from tests.small import rock_salt

__all__ = ["workshop"]

NA, CL = 11, 17
ELEMENTS = [(((NA, 1),), -1.0), (((CL, 1),), -2.0)]


def crystals(*structures: Structure) -> CrystalBatch:
    return CrystalBatch.from_structures(structures, torch.float64)


def salt(*symbols: str) -> Structure:
    return Structure(Lattice.cubic(2.5 * len(symbols)), symbols, [[n / len(symbols)] * 3 for n in range(len(symbols))])


def test_a_compound_lies_above_what_it_could_decompose_into() -> None:
    """With Na, Cl, Na3Cl and NaCl at -1, -2, -1.9 and -3 eV/atom.

    Six atoms of NaCl decompose into four of Na3Cl and two of Cl, four of Na3Cl into two of Na and two of NaCl.
    """
    batch = crystals(rock_salt(), salt("Na", "Na", "Na", "Cl"), salt("Na", "Cl"))
    phases = Phases(ELEMENTS)
    above = phases.above_hull(batch, [-3.0, -1.9, -2.5])
    decomposed = (4 * -1.9 + 2 * -2.0) / 6
    assert above == pytest.approx([-3.0 - decomposed, -1.9 - (2 * -1.0 + 2 * -3.0) / 4, -2.5 - decomposed])


def test_phases_of_the_file_that_hold_other_elements_are_left_out(
    tmp_path: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    energy = MatGLEnergy(workshop.potential)
    sodium, chlorine = (Structure(Lattice.cubic(a), [symbol], [[0, 0, 0]]) for a, symbol in ((3.4, "Na"), (3.0, "Cl")))
    other = Structure(Lattice.cubic(4.0), ["U", "Pu"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    write_structures(tmp_path / "phases.extxyz", [sodium, chlorine, rock_salt(), other])
    monkeypatch.setattr("omatg_ray.search.phases.STEPS", 2)
    with pytest.warns(UserWarning, match=r"after 2 relaxation steps, Cl still moved: their energies are too high"):
        phases = Phases.load(tmp_path / "phases.extxyz", energy, frozenset({NA, CL}))
    assert [key for key, _ in phases.entries] == [((NA, 1),), ((CL, 1),), ((NA, 1), (CL, 1))]
    lone = energy.relaxed(crystals(sodium), 2).energy
    assert phases.entries[0][1] == pytest.approx(float(lone), abs=1e-4)
    with pytest.raises(ConfigError, match=r"phases.extxyz: there is no valid crystal of Mg, Br alone; add one of each"):
        Phases.load(tmp_path / "phases.extxyz", energy, frozenset({NA, CL, 12, 35}))
