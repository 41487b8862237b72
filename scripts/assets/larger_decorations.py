"""Elements that decorate the prototypes for the periodic table: quaternary compounds, oxyanions, larger cells.

Elements of the first set come with hydrogen, beryllium, boron, carbon, all of the 4d and 5d metals, the rare earths
and the light actinides. Salts are neutral with usual oxidation states, but for the mixed valence of the cuprate; metals
need not be.
"""

from __future__ import annotations

from decorations import ABX2, AX, AX2, Family
from larger_prototypes import LARGER_PROTOTYPES
from prototypes import PROTOTYPES

EVERY_PROTOTYPE = PROTOTYPES | LARGER_PROTOTYPES

RARE_EARTHS = "Y La Ce Pr Nd Pm Sm Gd Tb Dy Ho Er Tm Lu"
ACTINIDES = "Th U Np Pu"
ONE = "Li Na K Rb Cs Cu Ag Tl"
ALKALI = "Li Na K Rb Cs"
TWO = "Be Mg Ca Sr Ba Mn Fe Co Ni Zn Cd Hg Sn Pb Eu Yb"
LARGE_TWO = "Ca Sr Ba Pb Eu Yb Cd"
SMALL_TWO = "Be Mg Mn Fe Co Ni Zn"
THREE = f"B Al Ga In Tl Sc Ti V Cr Mn Fe Co Rh Ru Ir Sb Bi Ac {RARE_EARTHS} Pu"
OCTAHEDRAL_THREE = "Al Ga In Sc Ti V Cr Mn Fe Co Rh Bi"
FOUR = "Si Ge Sn Pb Ti Zr Hf Mn Mo W Tc Re Ru Os Ir Pt Te Ce Th U Np"
OCTAHEDRAL_FOUR = "Ti Zr Hf Sn Ge Mn Mo Tc Re Ru Os Ir Pt"
FIVE = "P As Sb V Nb Ta Pa Re Os Ru"
SIX = "S Se Te Cr Mo W Re U"
HALOGENS, CHALCOGENS, PNICTOGENS = "F Cl Br I", "O S Se Te", "N P As Sb Bi"
ELECTROPOSITIVE = f"Li Be Mg Ca Sr Ba Sc Ti Zr Hf Nb Ta {RARE_EARTHS} Eu Yb {ACTINIDES} Pa Ac"
NOBLE = "Tc Re Ru Os Rh Ir Pd Pt Ag Au Hg Mo W"
LATE = f"Cr Mn Fe Co Ni Cu Zn Cd {NOBLE}"
MAIN_GROUP = "B Al Ga In Tl Si Ge Sn Pb P As Sb Bi C"

ABX4 = "zircon, scheelite, CrVO4, wolframite, barite, berlinite"
A2BCX6 = (
    "elpasolite(CABX), tilted double perovskite I4/m, tilted double perovskite R-3, tilted double perovskite P2_1/c"
)
HEUSLER = "quaternary Heusler, quaternary Heusler(ACBX), quaternary Heusler(ABXC)"
A2BCX4 = "kesterite, stannite, wurtz-stannite"
A3BX4 = "famatinite, enargite, sulvanite, gamma-Li3PO4"
A2BX4 = "forsterite, beta-K2SO4, spinel(BAX), K2NiF4(BAX)"

LARGER_FAMILIES = (
    # small prototypes of the first set, with all elements
    Family(AX, (ONE, "H F Cl Br I"), 16),
    Family(AX, (TWO, "O S Se Te"), 20),
    Family(AX, (THREE + " " + ACTINIDES, PNICTOGENS), 40),
    Family("rocksalt, NiAs, zincblende, CsCl", ("Ti Zr Hf V Nb Ta Mo W Re Os Th U Pu", "C N B"), 20),
    Family(AX2, (TWO, "H F Cl Br I"), 20),
    Family(AX2 + ", quartz", (FOUR, CHALCOGENS), 40),
    Family("ReO3, AlF3, BiI3, UCl3", (THREE + " U Np", "H F Cl Br I"), 30),
    Family("bixbyite, corundum, La2O3, tetradymite", (THREE, CHALCOGENS), 60),
    Family("bixbyite(XA), corundum(XA), La2O3(XA)", ("Be Mg Ca Sr Ba Zn Cd", PNICTOGENS), 20),
    Family("Th3P4", ("Th U Np Zr Hf Ce", PNICTOGENS), 12),
    Family("Th3P4(XA)", (RARE_EARTHS, "As Sb Bi"), 16),
    Family("perovskite, PbTiO3, GdFeO3", ("Ca Sr Ba Pb Eu", OCTAHEDRAL_FOUR + " U Th", "O S"), 20),
    Family("perovskite, GdFeO3, LiNbO3", (RARE_EARTHS, OCTAHEDRAL_THREE, "O"), 40),
    Family("perovskite, BaNiO3, GdFeO3", (ALKALI + " Tl", TWO, "H F Cl"), 24),
    Family(ABX2, (ONE, f"Tl Rh {RARE_EARTHS}", CHALCOGENS), 40),
    Family("PbFCl, PbFCl(AXB)", (f"{RARE_EARTHS} Ac U Pu", "O", HALOGENS), 16),
    Family("CsCl, L1_0, TlI, FeB, AuCd", (ELECTROPOSITIVE, NOBLE + " " + MAIN_GROUP), 60),
    Family("L1_2, Al3Ti, Ni3Sn, BiF3, A15", (ELECTROPOSITIVE + " Al Ga In Tl", NOBLE), 40),
    Family("half-Heusler, half-Heusler(BAX), ZrBeSi, LiGaGe, TiNiSi", (ELECTROPOSITIVE, LATE, MAIN_GROUP), 60),
    Family("Heusler, inverse Heusler", (ELECTROPOSITIVE, MAIN_GROUP, LATE), 40),
    Family("ThCr2Si2, CaAl2Si2, CaBe2Ge2", (f"Ca Eu Yb U Th {RARE_EARTHS}", LATE + " B", "B Si Ge P As Sb C"), 50),
    # quaternary compounds
    Family(HEUSLER, (ELECTROPOSITIVE, "Cr Mn Fe Co Ni Cu Zn", NOBLE, MAIN_GROUP), 80),
    Family(A2BCX4, ("Cu Ag Li Na", "Mg Mn Fe Co Ni Zn Cd Hg", "Si Ge Sn", "S Se Te"), 50),
    Family(A2BCX6, (LARGE_TWO, "Mg Mn Fe Co Ni Zn", "Te Mo W Re Os U", "O"), 40),
    Family(A2BCX6, (LARGE_TWO, f"{OCTAHEDRAL_THREE} {RARE_EARTHS}", "Sb Nb Ta Ru Os Re Pa", "O"), 40),
    Family(A2BCX6, (RARE_EARTHS, "Mg Mn Co Ni Zn", "Ti Mn Ir Ru Pt", "O"), 30),
    Family(A2BCX6, ("K Rb Cs Tl", "Li Na K Ag", f"{OCTAHEDRAL_THREE} {RARE_EARTHS}", "F Cl Br I"), 40),
    Family("honeycomb layers", ("Li Na K Ag Cu", "Mg Fe Co Ni Zn Cu Mn", "Sb Nb Ta Bi", "O"), 30),
    Family("ZrCuSiAs", (f"{RARE_EARTHS} Bi", "Cu Ag", "S Se Te", "O"), 20),
    Family("ZrCuSiAs", (f"{RARE_EARTHS} U Np", "Mn Fe Co Ni Zn Cd Ru", "P As Sb", "O"), 24),
    Family("Sr2CuO2Cl2", ("Mn Fe Co Ni Cu Pd", "Ca Sr Ba", "F Cl Br", "O"), 16),
    # mixed valence
    Family("YBa2Cu3O7", (RARE_EARTHS, "Cu Co Fe", "Sr Ba", "O"), 8),
    Family("olivine, olivine(BACX)", ("Li Na K", "Mg Mn Fe Co Ni Zn Ca Cd", "P As V", "O"), 40),
    Family("olivine, olivine(BACX)", ("Mg Ca Sr Ba", SMALL_TWO, "Si Ge", "O S"), 30),
    Family("melilite", ("Ca Sr Ba Pb", SMALL_TWO, "Si Ge", "O S"), 20),
    Family("pyroxene", ("Li Na K Ag", OCTAHEDRAL_THREE, "Si Ge", "O"), 20),
    Family("pyroxene", ("Ca Sr Mg Mn", "Mg Mn Fe Co Ni Zn", "Si Ge", "O"), 16),
    Family("NASICON", ("Li Na K Ag Cu Tl", "Ti Zr Hf Ge Sn", "P As", "O"), 16),
    Family("apatite", ("Ca Sr Ba Pb Cd", "P As V", "F Cl Br", "O"), 16),
    # oxyanions, in cells of up to 28 atoms
    Family("calcite, aragonite", (TWO, "C", "O"), 16),
    Family("calcite, aragonite", (ALKALI + " Ag Tl", "N", "O"), 7),
    Family("calcite, aragonite", (f"{RARE_EARTHS} Al Ga In Sc Fe Cr V", "B", "O"), 16),
    Family("calcite, aragonite", (ALKALI, "Cl Br I", "O"), 12),
    Family(ABX4, (THREE, "P As V Nb Ta", "O"), 50),
    Family(ABX4, (TWO, "S Se Cr Mo W", "O"), 40),
    Family(ABX4, (ALKALI + " Ag Tl", "Cl I Mn Tc Re", "O"), 20),
    Family(ABX4, ("Zr Hf Th U Ce", "Si Ge", "O"), 10),
    Family(ABX4 + ", TlAlF4", (ALKALI + " Tl", "B Al Ga In Cr Fe " + "Y La Nd", "F Cl H"), 20),
    Family(A2BX4, (ALKALI + " Tl Ag", "S Se Cr Mo W", "O"), 24),
    Family(A2BX4, (TWO, "Si Ge Ti", "O S"), 30),
    Family(A2BX4, ("K Rb Cs Tl", "Zn Cd Hg Mn Fe Co Pd Pt Be", "F Cl Br I"), 24),
    Family("CaFe2O4, forsterite(BAX), spinel", (TWO, f"{OCTAHEDRAL_THREE} {RARE_EARTHS}", "O S Se"), 50),
    Family("gamma-Li3PO4, enargite", ("Li Na K Ag", "P As V", "O S"), 16),
    Family(A3BX4, ("Cu Ag Li Tl", FIVE, "S Se Te"), 30),
    Family("cryolite", (ALKALI + " Tl Ag", OCTAHEDRAL_THREE, "F Cl"), 24),
    Family("cryolite", ("Ca Sr Ba Eu", "Te W Mo U Re", "O"), 16),
    # larger cells
    Family("Li2MnO3", ("Li Na K Ag Cu", OCTAHEDRAL_FOUR, "O S"), 20),
    Family("Sr3Ti2O7", ("Ca Sr Ba", OCTAHEDRAL_FOUR, "O S"), 16),
    Family("eulytite", ("Bi " + RARE_EARTHS, "Si Ge", "O"), 12),
    Family("pyrochlore", (f"{RARE_EARTHS} Bi In", OCTAHEDRAL_FOUR, "O"), 30),
    Family("pyrochlore", ("Ca Cd Hg Pb", "Nb Ta Sb Os Re", "O"), 12),
    Family("brownmillerite", ("Ca Sr Ba", "Al Ga In Fe Co Mn", "O"), 12),
    Family("trirutile, PbSb2O6", (TWO, "Sb As Ta Nb V", "O"), 30),
    Family("Cs3Bi2Br9, Cs3Cr2Cl9", ("K Rb Cs Tl", "Sb Bi In Cr Mo W Sc Y La Ru Rh Ti", "F Cl Br I"), 40),
    # metals
    Family("CaCu5", (ELECTROPOSITIVE, LATE), 30),
    Family("Th2Zn17", (ELECTROPOSITIVE, "Mn Fe Co Ni Cu Zn Be"), 16),
    Family("ThMn12", (ELECTROPOSITIVE, "Mn Fe Co Be Zn Al Mo Re"), 16),
    Family("Th6Mn23", (ELECTROPOSITIVE, "Mn Fe Co Ni Mg Cu"), 20),
    Family("Mg17Al12", ("Mg Tc Re Sm Dy Er Hf Zr", "Al Ga Re Tc Mg Os"), 12),
    Family("sigma", ("Cr V Nb Ta Mo W", "Mn Fe Co Ni Re Os Ir Ru Rh Pt Al"), 24),
    Family("Mn5Si3, Cr5B3", (ELECTROPOSITIVE + " Mn V Cr", "Si Ge Sn Pb Sb Bi Ga Al B"), 50),
    Family("skutterudite", ("Co Rh Ir Ni Fe", "P As Sb"), 12),
    Family("LaFe4P12", (f"{RARE_EARTHS} Th U Ba Sr", "Fe Ru Os Co Rh Pt", "P As Sb Ge"), 24),
    Family("Yb3Rh4Sn13", (f"{RARE_EARTHS} Ca Sr Yb Th", "Co Rh Ir Ru Os Pt", "Sn Ge In Pb"), 20),
)  # fmt: skip
