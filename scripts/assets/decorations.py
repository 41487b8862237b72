"""Elements that decorate each prototype: charge-neutral and metallic compositions, family by family."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from prototypes import PROTOTYPES, Prototype
from pymatgen.core import Composition, Structure

# Usual oxidation states; an element may have several.
CATIONS = {
    1: "Li Na K Rb Cs Cu Ag",
    2: "Mg Ca Sr Ba Mn Fe Co Ni Zn Cd Sn Pb",
    3: "Al Ga In Sc Y La V Cr Fe Bi",
    4: "Ti Zr Si Ge Sn Pb",
    5: "V Nb Sb",
}
ANIONS = {1: "F Cl Br I", 2: "O S Se Te", 3: "N P As Sb Bi"}
ALKALI, LARGE_ALKALI, ALKALINE_EARTH = "Li Na K Rb Cs", "K Rb Cs", "Mg Ca Sr Ba"
ACTIVE = "Li Mg Ca Sr Ba Sc Y La Ti Zr"
EARLY = "Li Mg Sc Y La Ti Zr V Nb Mn"
LATE = "Mn Fe Co Ni Cu Zn Pd Ag Cd Pt Au"
MAIN_GROUP = "Al Ga In Si Ge Sn Pb As Sb Bi"

AX = "rocksalt, CsCl, zincblende, wurtzite, NiAs, litharge, TlI"
AX2 = "fluorite, rutile, anatase, CdI2, CdCl2, MoS2, marcasite, pyrite, cotunnite, cristobalite"
ABX2 = "NaFeO2, delafossite, chalcopyrite, LiFeO2, CuAu-ordered rocksalt"
ABX3 = "perovskite, PbTiO3, ilmenite, LiNbO3, BaNiO3"


@dataclass(frozen=True)
class Family:
    """Compositions that share a stoichiometry and a kind of bonding, and the prototypes to try each of them in.

    Attributes:
        prototypes: Names, separated by commas; `name(BAX)` puts the first elements on B, the second on A, the third on
            X.
        elements: The elements that each label of the prototypes takes, in the order A, B, C, X.
        limit: Most compositions taken from all combinations, chosen by hash.
    """

    prototypes: str
    elements: tuple[str, ...]
    limit: int = 1000

    @property
    def labels(self) -> str:
        """Labels of the elements."""
        return {2: "AX", 3: "ABX", 4: "ABCX"}[len(self.elements)]

    def compositions(self, everything: bool = False) -> list[tuple[str, ...]]:
        """Return element tuples without repeated elements; `everything` ignores `limit`."""
        combinations = product(*(choice.split() for choice in self.elements))
        distinct = (elements for elements in combinations if len(set(elements)) == len(elements))
        return sorted(distinct, key=lambda elements: _hash(self.prototypes, *elements))[
            : None if everything else self.limit
        ]


FAMILIES = (
    # salts, oxides, pnictides
    *(Family(AX, (CATIONS[q], ANIONS[q])) for q in (1, 2, 3)),
    Family(AX2, (CATIONS[2], ANIONS[1])),
    Family(AX2, (CATIONS[4], ANIONS[2])),
    Family("fluorite(XA), CdI2(XA), CdCl2(XA), cuprite(XA), Ni2In(XA)", (CATIONS[1], ANIONS[2])),
    Family("fluorite(XA), cotunnite(XA), Ni2In(XA), CaIn2(XA)", (ALKALINE_EARTH, "Si Ge Sn Pb")),
    Family("ReO3, AlF3, BiI3, UCl3", (CATIONS[3], ANIONS[1])),
    Family("BiF3(XA), Na3As(XA), ReO3(XA)", (CATIONS[1], ANIONS[3])),
    Family("corundum, La2O3, tetradymite", (CATIONS[3], ANIONS[2])),
    Family("corundum(XA), La2O3(XA), tetradymite(XA)", (ALKALINE_EARTH + " Zn Cd", ANIONS[3])),
    Family(ABX2, (CATIONS[1], CATIONS[3], ANIONS[2]), 90),
    Family(ABX2, ("Mg Zn Cd", "Si Ge Sn", "N P As Sb"), 16),
    Family(ABX3, ("K Rb Cs Na", CATIONS[2], ANIONS[1]), 30),
    Family(ABX3 + ", GdFeO3, CaIrO3", ("Ca Sr Ba Pb Mg", "Ti Zr Sn Ge Si", "O S"), 30),
    Family(ABX3, ("Mg Mn Fe Co Ni Zn Cd", "Ti Zr Sn Ge Si", "O S"), 15),
    Family(ABX3, (ALKALI + " Ag", CATIONS[5], "O"), 15),
    Family(ABX3 + ", GdFeO3", ("La Y Bi", CATIONS[3], "O"), 15),
    Family("perovskite, PbTiO3, BaNiO3", (MAIN_GROUP, "O N", "Mg Ca Sr Ba"), 30),
    Family("spinel, defect chalcopyrite", (CATIONS[2], CATIONS[3], ANIONS[2]), 50),
    Family("K2NiF4, spinel", ("Ti Zr Sn Pb", "Ca Sr Ba", "O S"), 16),
    Family("K2NiF4, spinel", ("Mg Mn Fe Co Ni Zn Cd Cu", LARGE_ALKALI, "F Cl"), 24),
    Family("K2PtCl6, K2GeF6", ("Ti Zr Sn Ge Pb Pd Pt", LARGE_ALKALI + " Na", "F Cl Br I"), 40),
    Family("elpasolite", (CATIONS[3], "Li Na Ag", LARGE_ALKALI, "F Cl Br"), 30),
    Family("PbFCl, PbFCl(AXB), TiNiSi", ("Sc Y La Bi Ga In", "O", ANIONS[1]), 16),
    Family("PbFCl, PbFCl(AXB), TiNiSi", ("Mg Ca Sr Ba Pb Cd", "F", "Cl Br I"), 16),
    # metals
    Family("CsCl, L1_0, TlI, FeB, NaTl, AuCd", (ACTIVE, LATE + " " + MAIN_GROUP), 100),
    Family("Laves C15, Laves C14, MoSi2, AlB2, Al2Cu, CaIn2", (ACTIVE, LATE + " Al Ga In Si Ge"), 70),
    Family("L1_2, Al3Ti, BiF3, Ni3Sn, A15", (ACTIVE + " Al Ga In Sn", LATE), 70),
    Family("L1_2, Al3Ti, BiF3, Ni3Sn, A15", ("Ti Zr V Nb Ni Pd", "Al Ga In Sn"), 20),
    Family("half-Heusler, half-Heusler(BAX), half-Heusler(AXB), ZrBeSi, LiGaGe, TiNiSi", (EARLY, LATE, MAIN_GROUP), 70),
    Family("Heusler, inverse Heusler", (EARLY, MAIN_GROUP, LATE), 100),
    Family("ThCr2Si2, CaAl2Si2, CaBe2Ge2", ("Ca Sr Ba Y La", LATE + " Al", "Si Ge Sn P As Sb"), 60),
)


@dataclass(frozen=True)
class Candidate:
    """A decorated prototype before relaxation."""

    ident: str
    structure_type: Prototype
    elements: tuple[tuple[str, str], ...]

    @property
    def prototype(self) -> str:
        """Name of the prototype."""
        return self.structure_type.name

    @property
    def formula(self) -> str:
        """Reduced formula."""
        return self.ident.partition("-")[0]

    def structure(self) -> Structure:
        """Build the primitive cell, at a volume suggested by the bond lengths of similar compounds."""
        from pymatgen.analysis.structure_prediction.volume_predictor import DLSVolumePredictor

        structure = self.structure_type.structure(dict(self.elements))
        structure.scale_lattice(25.0 * len(structure))
        return DLSVolumePredictor(min_scaling=0.1, max_scaling=10.0).get_predicted_structure(structure)


def candidates(
    everything: bool = False,
    families: Sequence[Family] = FAMILIES,
    prototypes: Mapping[str, Prototype] = PROTOTYPES,
) -> list[Candidate]:
    """List all candidates, with compositions shuffled and the prototypes of each composition kept together.

    Args:
        everything: Take all compositions, beyond the limits of the families.
        families: What decorates which prototypes.
        prototypes: The prototypes by name.
    """
    found: dict[str, Candidate] = {}
    order: dict[str, str] = {}
    contents = {name: prototype.contents() for name, prototype in prototypes.items()}
    for family in families:
        for elements in family.compositions(everything):
            for name, decoration in _decorations(family, elements):
                counts = {decoration[label]: count for label, count in contents[name].items()}
                formula = Composition(counts).reduced_formula
                roles = "".join(decoration[label] for label in sorted(decoration))
                ident = f"{formula}-{name.replace(' ', '_')}-{roles}"
                found.setdefault(ident, Candidate(ident, prototypes[name], tuple(sorted(decoration.items()))))
                order[ident] = _hash(formula) + ident
    return sorted(found.values(), key=lambda candidate: order[candidate.ident])


def _decorations(family: Family, elements: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    for word in family.prototypes.split(", "):
        name, _, roles = word.rstrip(")").partition("(")
        yield name, dict(zip(roles or family.labels, elements, strict=True))


def _hash(*words: str) -> str:
    return hashlib.sha256(":".join(words).encode()).hexdigest()
