"""The Niggli cell keeps the crystal, and standard orientation its lengths and angles."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from pymatgen.core import Lattice

from omatg_ray.crystal.reduce import reduce_cell, standard_orientation

pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # spglib, about itself


def niggli_forms(cell: np.ndarray) -> np.ndarray:
    """A, B, C, xi, eta, zeta: squared lengths and doubled scalar products."""
    gram = cell @ cell.T
    return np.array([gram[0, 0], gram[1, 1], gram[2, 2], 2 * gram[1, 2], 2 * gram[0, 2], 2 * gram[0, 1]])


def nearest_vectors(cell: np.ndarray, frac: np.ndarray) -> np.ndarray:
    """Shortest vectors (Cartesian) from atom 0 to the others, by trying all images within five cells."""
    shifts = np.array(list(itertools.product(range(-5, 6), repeat=3)))
    images = (frac[1:, None] - frac[0] + shifts) @ cell
    return images[np.arange(len(frac) - 1), np.linalg.norm(images, axis=-1).argmin(1)]


def test_reduction_gives_the_published_niggli_cell() -> None:
    # the worked example of Krivy & Gruber, Acta Cryst. A 32, 297 (1976)
    a, b, c = 3.0, math.sqrt(27.0), 2.0
    angles = [math.degrees(math.acos(x)) for x in (-5 / (2 * b * c), -4 / (2 * a * c), -22 / (2 * a * b))]
    cell = Lattice.from_parameters(a, b, c, *angles).matrix
    assert niggli_forms(cell) == pytest.approx([9, 27, 4, -5, -4, -22])
    reduced, _ = reduce_cell(cell, np.zeros((1, 3)))
    assert niggli_forms(reduced) == pytest.approx([4, 9, 9, 9, 3, 4], abs=1e-6)


@pytest.mark.parametrize("mirrored", [False, True])
def test_reduction_keeps_a_skewed_chiral_crystal(mirrored: bool) -> None:
    random = np.random.default_rng(3)
    shears = [np.eye(3) + 2.0 * np.eye(3, k=1), np.eye(3) - np.eye(3, k=-1), np.eye(3) + np.eye(3, k=2)]
    for _ in range(20):
        compact = np.diag(random.uniform(5, 8, 3)) + random.uniform(-0.8, 0.8, (3, 3))
        # four atoms near each other: the triple product of the vectors between them tells mirror images apart
        corner = random.uniform(0, 1, 3)
        cart = corner @ compact + np.array([[0, 0, 0], [1.1, 0.1, 0], [0.2, 1.4, 0], [0.1, 0.3, 1.7]])
        skewed = shears[0] @ shears[1] @ shears[2] @ compact
        cell = skewed[[1, 0, 2]] if mirrored else skewed
        assert (np.linalg.det(cell) < 0) == mirrored
        frac = cart @ np.linalg.inv(cell)

        reduced, pos = reduce_cell(cell, frac)

        assert reduced[np.triu_indices(3, k=1)] == pytest.approx([0, 0, 0], abs=1e-12)
        assert (np.diag(reduced) > 0).all()
        A, B, C, xi, eta, zeta = niggli_forms(reduced)  # noqa: N806 - the literature's names
        assert A <= B + 1e-6
        assert B <= C + 1e-6
        assert abs(xi) <= B + 1e-6
        assert max(abs(eta), abs(zeta)) <= A + 1e-6
        assert abs(np.linalg.det(reduced)) == pytest.approx(abs(np.linalg.det(cell)))
        vectors = nearest_vectors(reduced, pos)
        expected = cart[1:] - cart[0]
        assert vectors @ vectors.T == pytest.approx(expected @ expected.T, abs=1e-6)
        assert np.linalg.det(vectors) == pytest.approx(np.linalg.det(expected), abs=1e-6)


def test_reduction_survives_the_failure_of_one_library_and_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = np.array([[4.0, 0, 0], [12.5, 5.0, 0], [0.5, 5.5, 6.0]])
    frac = np.array([[0.1, 0.2, 0.3]])
    whole, _ = reduce_cell(cell, frac)

    def fail(*_: object) -> None:
        raise ValueError("cannot")

    monkeypatch.setattr("spglib.niggli_reduce", lambda cell: None)
    assert niggli_forms(reduce_cell(cell, frac)[0]) == pytest.approx(niggli_forms(whole), abs=1e-6)
    monkeypatch.setattr(Lattice, "get_niggli_reduced_lattice", fail)
    unreduced, pos = reduce_cell(cell, frac)
    assert unreduced == pytest.approx(cell)
    assert pos == pytest.approx(frac)


def test_standard_orientation_turns_without_changing_lengths_and_angles() -> None:
    random = np.random.default_rng(0)
    cell = random.normal(size=(3, 3)) + 4 * np.eye(3)[[1, 2, 0]]
    oriented, frac = standard_orientation(cell, np.array([[0.1, 0.2, 0.3]]))
    assert oriented @ oriented.T == pytest.approx(cell @ cell.T)
    assert oriented[0, 1:] == pytest.approx([0, 0], abs=1e-12)
    assert oriented[1, 2] == pytest.approx(0, abs=1e-12)
    assert (np.diag(oriented) > 0).all()
    assert frac == pytest.approx(np.array([[0.1, 0.2, 0.3]]) * np.sign(np.linalg.det(cell)))
