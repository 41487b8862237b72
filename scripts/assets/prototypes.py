"""Structure prototypes: space group, axes and occupied positions, to be decorated with elements.

Labels follow the formula of the family (A, B, C: cations or metals; X: anion or the last metal). Free coordinates and
ratios of axes are those of the compound that names the type, rounded; relaxation finds the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.groups import SpaceGroup

Site = tuple[str, tuple[float, float, float]]
keep_group = cache(SpaceGroup)
"""Cached because pymatgen takes a quarter of a second to make a space group, and reuses existing ones."""


@dataclass(frozen=True)
class Prototype:
    """A structure type.

    Attributes:
        name: Mineral or compound that names it, or its Strukturbericht symbol if that is better known.
        space_group: Symbol, in pymatgen's spelling; its standard setting decides the origin.
        axes: a, b, c in units of a.
        sites: One representative of every orbit: label and fractional coordinates.
        angles: α, β, γ in degrees.
    """

    name: str
    space_group: str
    axes: tuple[float, float, float]
    sites: tuple[Site, ...]
    angles: tuple[float, float, float] = (90.0, 90.0, 90.0)

    def structure(self, elements: Mapping[str, str]) -> Structure:
        """Build the primitive cell, with the element that `elements` gives each label; its volume is arbitrary."""
        a, b, c = (4.0 * axis for axis in self.axes)
        alpha, beta, gamma = self.angles
        lattice = Lattice.from_parameters(a, b, c, alpha, beta, gamma)
        species = [elements[label] for label, _ in self.sites]
        coordinates = [position for _, position in self.sites]
        keep_group(self.space_group)
        return Structure.from_spacegroup(self.space_group, lattice, species, coordinates).get_primitive_structure()

    def contents(self) -> dict[str, int]:
        """Count the atoms of every label in the primitive cell."""
        stand_in = {"A": "Na", "B": "Ti", "C": "Cs", "X": "O"}
        amounts = self.structure(stand_in).composition.get_el_amt_dict()
        return {label: int(amounts[stand_in[label]]) for label in dict(self.sites)}


def cubic(name: str, group: str, *sites: Site) -> Prototype:
    """Return a cubic type."""
    return Prototype(name, group, (1.0, 1.0, 1.0), sites)


def tetragonal(name: str, group: str, c: float, *sites: Site) -> Prototype:
    """Return a tetragonal type with axes 1, 1, c."""
    return Prototype(name, group, (1.0, 1.0, c), sites)


def hexagonal(name: str, group: str, c: float, *sites: Site) -> Prototype:
    """Return a hexagonal or rhombohedral type with axes 1, 1, c."""
    return Prototype(name, group, (1.0, 1.0, c), sites, (90.0, 90.0, 120.0))


def orthorhombic(name: str, group: str, b: float, c: float, *sites: Site) -> Prototype:
    """Return a orthorhombic type with axes 1, b, c."""
    return Prototype(name, group, (1.0, b, c), sites)


T, TT = 1 / 3, 2 / 3
_TABLE = (
    # AX
    cubic("rocksalt", "Fm-3m", ("A", (0, 0, 0)), ("X", (0.5, 0.5, 0.5))),
    cubic("CsCl", "Pm-3m", ("A", (0, 0, 0)), ("X", (0.5, 0.5, 0.5))),
    cubic("zincblende", "F-43m", ("A", (0, 0, 0)), ("X", (0.25, 0.25, 0.25))),
    hexagonal("wurtzite", "P6_3mc", 1.63, ("A", (T, TT, 0)), ("X", (T, TT, 0.375))),
    hexagonal("NiAs", "P6_3/mmc", 1.5, ("A", (0, 0, 0)), ("X", (T, TT, 0.25))),
    tetragonal("litharge", "P4/nmm", 1.26, ("A", (0, 0.5, 0.237)), ("X", (0, 0, 0))),
    orthorhombic("TlI", "Cmcm", 2.8, 1.15, ("A", (0, 0.392, 0.25)), ("X", (0, 0.133, 0.25))),
    orthorhombic("FeB", "Pnma", 0.54, 0.74, ("A", (0.18, 0.25, 0.125)), ("X", (0.036, 0.25, 0.61))),
    tetragonal("L1_0", "P4/mmm", 1.3, ("A", (0, 0, 0)), ("X", (0.5, 0.5, 0.5))),
    cubic("NaTl", "Fd-3m", ("A", (0, 0, 0)), ("X", (0.5, 0.5, 0.5))),
    orthorhombic("AuCd", "Pmma", 0.66, 1.02, ("A", (0.25, 0, 0.81)), ("X", (0.25, 0.5, 0.31))),
    # AX2
    cubic("fluorite", "Fm-3m", ("A", (0, 0, 0)), ("X", (0.25, 0.25, 0.25))),
    tetragonal("rutile", "P4_2/mnm", 0.645, ("A", (0, 0, 0)), ("X", (0.305, 0.305, 0))),
    tetragonal("anatase", "I4_1/amd", 2.51, ("A", (0, 0, 0)), ("X", (0, 0, 0.208))),
    hexagonal("CdI2", "P-3m1", 1.6, ("A", (0, 0, 0)), ("X", (T, TT, 0.25))),
    hexagonal("CdCl2", "R-3m", 4.6, ("A", (0, 0, 0)), ("X", (0, 0, 0.25))),
    hexagonal("MoS2", "P6_3/mmc", 3.9, ("A", (T, TT, 0.25)), ("X", (T, TT, 0.621))),
    orthorhombic("marcasite", "Pnnm", 1.22, 0.76, ("A", (0, 0, 0)), ("X", (0.2, 0.378, 0))),
    cubic("pyrite", "Pa-3", ("A", (0, 0, 0)), ("X", (0.385, 0.385, 0.385))),
    orthorhombic(
        "cotunnite", "Pnma", 0.594, 1.188, ("A", (0.246, 0.25, 0.096)), ("X", (0.858, 0.25, 0.075)),
        ("X", (0.477, 0.25, 0.837)),
    ),
    tetragonal("cristobalite", "I-42d", 1.4, ("A", (0, 0, 0)), ("X", (0.1, 0.25, 0.125))),
    cubic("cuprite", "Pn-3m", ("A", (0, 0, 0)), ("X", (0.25, 0.25, 0.25))),
    hexagonal("Ni2In", "P6_3/mmc", 1.23, ("A", (T, TT, 0.25)), ("X", (0, 0, 0)), ("X", (T, TT, 0.75))),
    cubic("Laves C15", "Fd-3m", ("A", (0, 0, 0)), ("X", (0.625, 0.625, 0.625))),
    hexagonal("Laves C14", "P6_3/mmc", 1.63, ("A", (T, TT, 0.062)), ("X", (0, 0, 0)), ("X", (0.83, 0.66, 0.25))),
    tetragonal("MoSi2", "I4/mmm", 2.5, ("A", (0, 0, 0)), ("X", (0, 0, T))),
    hexagonal("AlB2", "P6/mmm", 1.05, ("A", (0, 0, 0)), ("X", (T, TT, 0.5))),
    tetragonal("Al2Cu", "I4/mcm", 0.8, ("A", (0, 0, 0.25)), ("X", (0.158, 0.658, 0))),
    hexagonal("CaIn2", "P6_3/mmc", 1.58, ("A", (0, 0, 0.25)), ("X", (T, TT, 0.045))),
    # AX3
    cubic("ReO3", "Pm-3m", ("A", (0, 0, 0)), ("X", (0.5, 0, 0))),
    cubic("BiF3", "Fm-3m", ("A", (0, 0, 0)), ("X", (0.25, 0.25, 0.25)), ("X", (0.5, 0.5, 0.5))),
    hexagonal("AlF3", "R-3c", 2.5, ("A", (0, 0, 0)), ("X", (0.57, 0, 0.25))),
    hexagonal("BiI3", "R-3", 2.75, ("A", (0, 0, 0.167)), ("X", (0.341, 0.34, 0.08))),
    hexagonal("UCl3", "P6_3/m", 0.57, ("A", (T, TT, 0.25)), ("X", (0.39, 0.3, 0.25))),
    hexagonal("Na3As", "P6_3/mmc", 1.77, ("A", (T, TT, 0.25)), ("X", (0, 0, 0.25)), ("X", (T, TT, 0.583))),
    cubic("L1_2", "Pm-3m", ("A", (0, 0, 0)), ("X", (0.5, 0.5, 0))),
    tetragonal("Al3Ti", "I4/mmm", 2.2, ("A", (0, 0, 0)), ("X", (0, 0, 0.5)), ("X", (0, 0.5, 0.25))),
    hexagonal("Ni3Sn", "P6_3/mmc", 0.8, ("A", (T, TT, 0.25)), ("X", (0.833, 0.666, 0.25))),
    cubic("A15", "Pm-3n", ("A", (0, 0, 0)), ("X", (0.25, 0, 0.5))),
    # A2X3
    hexagonal("corundum", "R-3c", 2.73, ("A", (0, 0, 0.352)), ("X", (0.306, 0, 0.25))),
    hexagonal("La2O3", "P-3m1", 1.56, ("A", (T, TT, 0.245)), ("X", (0, 0, 0)), ("X", (T, TT, 0.645))),
    hexagonal("tetradymite", "R-3m", 7.0, ("A", (0, 0, 0.4)), ("X", (0, 0, 0)), ("X", (0, 0, 0.212))),
    # ABX
    cubic(
        "half-Heusler", "F-43m", ("A", (0, 0, 0)), ("B", (0.25, 0.25, 0.25)), ("X", (0.5, 0.5, 0.5)),
    ),
    tetragonal("PbFCl", "P4/nmm", 1.75, ("A", (0, 0.5, 0.2)), ("B", (0, 0, 0)), ("X", (0, 0.5, 0.65))),
    hexagonal("ZrBeSi", "P6_3/mmc", 1.9, ("A", (0, 0, 0)), ("B", (T, TT, 0.25)), ("X", (T, TT, 0.75))),
    hexagonal("LiGaGe", "P6_3mc", 1.65, ("A", (0, 0, 0.25)), ("B", (T, TT, 0.46)), ("X", (T, TT, 0.08))),
    orthorhombic(
        "TiNiSi", "Pnma", 0.6, 1.14, ("A", (0.02, 0.25, 0.68)), ("B", (0.15, 0.25, 0.06)), ("X", (0.77, 0.25, 0.62)),
    ),
    # ABX2
    hexagonal("NaFeO2", "R-3m", 5.2, ("A", (0, 0, 0.5)), ("B", (0, 0, 0)), ("X", (0, 0, 0.235))),
    hexagonal("delafossite", "R-3m", 5.6, ("A", (0, 0, 0)), ("B", (0, 0, 0.5)), ("X", (0, 0, 0.107))),
    tetragonal("chalcopyrite", "I-42d", 2.0, ("A", (0, 0, 0)), ("B", (0, 0, 0.5)), ("X", (0.25, 0.25, 0.125))),
    tetragonal("LiFeO2", "I4_1/amd", 2.1, ("A", (0, 0, 0)), ("B", (0, 0, 0.5)), ("X", (0, 0, 0.24))),
    tetragonal(
        "CuAu-ordered rocksalt", "P4/mmm", 1.414, ("A", (0, 0, 0)), ("B", (0.5, 0.5, 0.5)), ("X", (0.5, 0.5, 0)),
        ("X", (0, 0, 0.5)),
    ),
    # ABX3
    cubic("perovskite", "Pm-3m", ("A", (0.5, 0.5, 0.5)), ("B", (0, 0, 0)), ("X", (0.5, 0, 0))),
    tetragonal(
        "PbTiO3", "P4mm", 1.06, ("A", (0, 0, 0)), ("B", (0.5, 0.5, 0.54)), ("X", (0.5, 0.5, 0.11)),
        ("X", (0.5, 0, 0.617)),
    ),
    hexagonal("ilmenite", "R-3", 2.77, ("A", (0, 0, 0.355)), ("B", (0, 0, 0.146)), ("X", (0.317, 0.023, 0.245))),
    hexagonal("LiNbO3", "R3c", 2.69, ("A", (0, 0, 0.279)), ("B", (0, 0, 0)), ("X", (0.05, 0.343, 0.064))),
    hexagonal("BaNiO3", "P6_3/mmc", 0.855, ("A", (T, TT, 0.75)), ("B", (0, 0, 0)), ("X", (0.148, 0.296, 0.25))),
    orthorhombic(
        "GdFeO3", "Pnma", 1.37, 0.955, ("A", (0.06, 0.25, 0.98)), ("B", (0, 0, 0.5)), ("X", (0.467, 0.25, 0.1)),
        ("X", (0.3, 0.05, 0.7)),
    ),
    orthorhombic(
        "CaIrO3", "Cmcm", 3.14, 2.32, ("A", (0, 0.25, 0.25)), ("B", (0, 0, 0)), ("X", (0, 0.93, 0.25)),
        ("X", (0, 0.64, 0.05)),
    ),
    # AB2X4
    cubic("spinel", "Fd-3m", ("A", (0, 0, 0)), ("B", (0.625, 0.625, 0.625)), ("X", (0.3875, 0.3875, 0.3875))),
    tetragonal(
        "defect chalcopyrite", "I-4", 2.0, ("A", (0, 0, 0)), ("B", (0, 0, 0.5)), ("B", (0, 0.5, 0.25)),
        ("X", (0.27, 0.26, 0.14)),
    ),
    tetragonal(
        "K2NiF4", "I4/mmm", 3.3, ("A", (0, 0, 0)), ("B", (0, 0, 0.355)), ("X", (0, 0.5, 0)), ("X", (0, 0, 0.155)),
    ),
    # AB2X6
    cubic("K2PtCl6", "Fm-3m", ("A", (0, 0, 0)), ("B", (0.25, 0.25, 0.25)), ("X", (0.24, 0, 0))),
    hexagonal("K2GeF6", "P-3m1", 0.82, ("A", (0, 0, 0)), ("B", (T, TT, 0.7)), ("X", (0.148, 0.852, 0.22))),
    # ABC2X6
    cubic(
        "elpasolite", "Fm-3m", ("A", (0, 0, 0)), ("B", (0.5, 0.5, 0.5)), ("C", (0.25, 0.25, 0.25)), ("X", (0.25, 0, 0)),
    ),
    # ABX2 of metals
    cubic("Heusler", "Fm-3m", ("A", (0, 0, 0)), ("B", (0.5, 0.5, 0.5)), ("X", (0.25, 0.25, 0.25))),
    cubic(
        "inverse Heusler", "F-43m", ("A", (0, 0, 0)), ("B", (0.25, 0.25, 0.25)), ("X", (0.5, 0.5, 0.5)),
        ("X", (0.75, 0.75, 0.75)),
    ),
    # AB2X2
    tetragonal("ThCr2Si2", "I4/mmm", 2.6, ("A", (0, 0, 0)), ("B", (0, 0.5, 0.25)), ("X", (0, 0, 0.37))),
    hexagonal("CaAl2Si2", "P-3m1", 1.7, ("A", (0, 0, 0)), ("B", (T, TT, 0.63)), ("X", (T, TT, 0.26))),
    tetragonal(
        "CaBe2Ge2", "P4/nmm", 2.3, ("A", (0, 0.5, 0.25)), ("B", (0, 0, 0)), ("B", (0, 0.5, 0.63)), ("X", (0, 0, 0.5)),
        ("X", (0, 0.5, 0.87)),
    ),
)  # fmt: skip
PROTOTYPES = {prototype.name: prototype for prototype in _TABLE}
