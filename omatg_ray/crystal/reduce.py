"""Niggli cell of a crystal, in standard orientation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def reduce_cell(cell: FloatArray, frac: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the same crystal in its Niggli cell (Grosse-Kunstleve et al. 2004) and in standard orientation.

    Args:
        cell: Lattice (3, 3) in Å, not degenerate; rows are the vectors.
        frac: Fractional positions (N, 3).

    Returns:
        Lattice and fractional positions (not wrapped). If both reductions fail, the lattice is only oriented.
    """
    transform = _niggli_transform(cell)
    return standard_orientation(transform @ cell, frac @ np.linalg.inv(transform))


def standard_orientation(cell: FloatArray, frac: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Rotate a crystal so that a lies along x, b in the xy plane (b_y > 0) and c_z > 0.

    A left-handed lattice and its positions are replaced by their negatives first. A rotation alone then does the rest,
    and the crystal does not turn into its mirror image.
    """
    if np.linalg.det(cell) < 0:
        cell, frac = -cell, -frac
    lower = np.linalg.qr(cell.T)[1].T
    return lower * np.sign(np.diag(lower)), frac


def _niggli_transform(cell: FloatArray) -> FloatArray:
    """Return an integer T (3, 3), |det T| = 1, that makes T @ cell a Niggli cell; the identity if none is found."""
    import spglib
    from pymatgen.core import Lattice

    # spglib first: it takes a few microseconds, pymatgen half a millisecond.
    for niggli in (spglib.niggli_reduce, lambda c: Lattice(c).get_niggli_reduced_lattice().matrix):
        try:
            reduced = np.asarray(niggli(cell), dtype=np.float64)
            transform = np.rint(reduced @ np.linalg.inv(cell))
            same = abs(round(np.linalg.det(transform))) == 1 and np.allclose(
                transform @ cell, reduced, rtol=0, atol=1e-3
            )
        except Exception:  # noqa: BLE001 - either library may give up on an odd cell, in many ways
            continue
        if same:
            return transform
    return np.eye(3)
