"""Crystals drawn in their cells: spheres seen from slightly above, with the unit cell's edges."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from omatg_ray.report.plots import INK

if TYPE_CHECKING:
    from ase import Atoms
    from matplotlib.axes import Axes

AZIMUTH, ELEVATION = np.radians(22.0), np.radians(14.0)
SIDE, LINE = 2.1, 0.17
"""Inches per crystal, and per line of text above or below it."""
RADIUS = 0.45
"""Drawn radius of an atom, in units of its covalent radius."""
FACE = 0.06
"""Atoms this close to a face of the cell, in fractional units, are also drawn on the opposite face."""


def draw_crystals(row: dict[str, tuple[Atoms, str]]) -> Figure:
    """Draw structures of one composition side by side, on one scale.

    Every structure is shifted so that an atom of its rarest (then largest) element sits at the origin, which makes
    equal structures look alike.

    Args:
        row: Structure and caption, by title.
    """
    lines = max(title.count("\n") for title in row) + max(caption.count("\n") for _, caption in row.values())
    figure = Figure(figsize=(SIDE * len(row), SIDE + LINE * (2 + lines)), layout="constrained")
    panels = figure.subplots(1, len(row), squeeze=False)[0]
    reach = 0.1
    for axes, (title, (atoms, caption)) in zip(panels, row.items(), strict=True):
        reach = max(reach, _draw(axes, atoms))
        axes.set_title(title, color=INK, fontsize=10)
        axes.set_xlabel(caption, color=INK, fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    for axes in panels:
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    return figure


def read_crystals(path: Path) -> list[Atoms]:
    """Read the crystals of a file; none if it is missing or damaged."""
    from ase.io import read

    try:
        atoms = read(path, index=":")
    except Exception:  # noqa: BLE001 - a damaged file can make the reader raise anything
        return []
    return atoms if isinstance(atoms, list) else [atoms]


def element_colours(symbols: list[str]) -> dict[str, str]:
    """Return the colour of every element that occurs, as #rrggbb, in order of first occurrence."""
    from ase.data import atomic_numbers
    from ase.data.colors import jmol_colors

    rgb = {symbol: jmol_colors[atomic_numbers[symbol]] for symbol in symbols}
    return {symbol: "#" + "".join(f"{round(255 * part):02x}" for part in colour) for symbol, colour in rgb.items()}


def _draw(axes: Axes, atoms: Atoms) -> float:
    """Draw one crystal around the origin; return how far it reaches from there, in Å."""
    from ase.cell import Cell
    from ase.data import covalent_radii

    finite = np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()
    if not finite or not len(atoms) or abs(np.linalg.det(atoms.cell.array)) < 0.1:
        axes.text(0, 0, "no volume", color=INK, ha="center", va="center", fontsize=9)
        return 0.0
    cell = Cell.fromcellpar(atoms.cell.cellpar()).array  # a along x, b in the plane of the floor
    sites, numbers = _with_images(atoms, covalent_radii)
    right = np.array([np.cos(AZIMUTH), np.sin(AZIMUTH), 0.0])
    towards = np.array([np.sin(AZIMUTH) * np.cos(ELEVATION), -np.cos(AZIMUTH) * np.cos(ELEVATION), np.sin(ELEVATION)])
    view = np.stack([right, np.cross(towards, right), towards], axis=1)
    centre = cell.sum(axis=0) / 2

    corners = np.array(list(product((0, 1), repeat=3)))
    drawn = (corners @ cell - centre) @ view
    hidden = int(drawn[:, 2].argmin())
    pairs = [(i, j) for i in range(8) for j in range(i) if np.abs(corners[i] - corners[j]).sum() == 1]
    for behind in (True, False):
        edges = [drawn[[i, j], :2] for i, j in pairs if (hidden in (i, j)) == behind]
        style = "dashed" if behind else "solid"
        depth = drawn[:, 2].min() if behind else drawn[:, 2].mean()
        axes.add_collection(
            LineCollection(edges, colors=INK, alpha=0.6, linewidths=0.9, linestyles=style, zorder=depth)
        )
    colours = element_colours(atoms.get_chemical_symbols())
    symbols = dict(zip(atoms.numbers.tolist(), atoms.get_chemical_symbols(), strict=True))
    points = (sites @ cell - centre) @ view
    for (x, y, depth), number in zip(points, numbers, strict=True):
        radius = RADIUS * covalent_radii[number]
        colour = colours[symbols[number]]
        axes.add_patch(
            Circle((x, y), radius, facecolor=colour, edgecolor="#333333", linewidth=0.7, zorder=depth, clip_on=False)
        )
        for size, alpha in ((0.55, 0.18), (0.28, 0.35)):
            shine = (x - 0.3 * radius, y + 0.3 * radius)
            axes.add_patch(
                Circle(shine, size * radius, facecolor="#ffffff", alpha=alpha, linewidth=0, zorder=depth, clip_on=False)
            )
    everything = np.concatenate([drawn[:, :2], points[:, :2]])
    return float(np.abs(everything).max()) + RADIUS * float(covalent_radii[atoms.numbers].max())


def _with_images(atoms: Atoms, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return fractional positions (M, 3) and numbers (M,), relative to an atom, with images on opposite faces."""
    numbers = atoms.numbers
    rank = [((numbers == number).sum(), -radii[number]) for number in numbers]
    origin = min(range(len(numbers)), key=rank.__getitem__)
    frac = atoms.cell.scaled_positions(atoms.positions)
    frac = (frac - frac[origin] + 1e-6) % 1.0 - 1e-6
    sites, owners = [], []
    for position, number in zip(frac, numbers, strict=True):
        shifts = [(0, 1) if f < FACE else (0, -1) if f > 1 - FACE else (0,) for f in position]
        for shift in product(*shifts):
            sites.append(position + shift)
            owners.append(number)
    return np.array(sites), np.array(owners)
