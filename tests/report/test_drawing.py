from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from matplotlib.patches import Circle

from omatg_ray.report.drawing import draw_crystals, element_colours


def perovskite(shift: float = 0.0) -> Atoms:
    frac = np.array([[0.5, 0.5, 0.5], [0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]) + shift
    return Atoms("BaTiO3", scaled_positions=frac % 1.0, cell=np.eye(3) * 4.0, pbc=True)


def spheres(atoms: Atoms) -> np.ndarray:
    """Centres and radii of the drawn atoms, without their shine."""
    axes = draw_crystals({"after": (atoms, "caption")}).axes[0]
    circles = [patch for patch in axes.patches if isinstance(patch, Circle) and patch.get_linewidth() > 0]
    return np.array(sorted((*circle.center, circle.radius) for circle in circles))


def test_images_complete_the_cell() -> None:
    """Ba (the largest of the rarest) is moved to the 8 corners; Ti lies in the centre, O on the 6 faces."""
    found = spheres(perovskite())
    radii = sorted(found[:, 2].round(6).tolist())
    assert [radii.count(radius) for radius in sorted(set(radii))] == [6, 1, 8]


def test_drawing_does_not_depend_on_the_origin() -> None:
    np.testing.assert_allclose(spheres(perovskite(0.37)), spheres(perovskite()), atol=1e-4)


def test_structures_share_one_scale() -> None:
    large = perovskite()
    large.set_cell(large.cell.array * 1.5, scale_atoms=True)
    figure = draw_crystals({"before": (large, ""), "after": (perovskite(), "−1.0 eV/atom")})
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    assert [axes.get_title() for axes in figure.axes] == ["before", "after"]
    assert figure.axes[1].get_xlabel() == "−1.0 eV/atom"


@pytest.mark.parametrize("cell", [np.zeros((3, 3)), np.full((3, 3), np.nan), np.ones((3, 3))])
def test_a_cell_without_volume_is_named(cell: np.ndarray) -> None:
    atoms = Atoms("NaCl", positions=np.zeros((2, 3)), pbc=True)
    atoms.cell[:] = cell
    axes = draw_crystals({"before": (atoms, "")}).axes[0]
    assert [text.get_text() for text in axes.texts] == ["no volume"]
    assert not axes.patches


def test_element_colours_keep_the_order() -> None:
    colours = element_colours(["Ti", "O", "O", "Ba"])
    assert list(colours) == ["Ti", "O", "Ba"]
    assert colours["O"] == "#ff0d0d"  # red, as in Jmol's table
