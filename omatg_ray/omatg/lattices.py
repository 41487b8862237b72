"""OMatG's named lattice distributions, one per data set: log-normal lengths, in ln Å.

Source: fits to the training sets by Miller et al., "FlowMM" (ICML 2024), and by OMatG (alex_mp_20).
"""

from __future__ import annotations

import math

from omatg_ray.crystal.base import InformedCell

Numbers = tuple[float, float, float]

FITS: dict[str, tuple[Numbers, Numbers]] = {
    "carbon_24": (
        (0.9852757453918457, 1.3865314722061157, 1.7068126201629639),
        (0.14957907795906067, 0.20431114733219147, 0.2403733879327774),
    ),
    "mp_20": (
        (1.575442910194397, 1.7017393112182617, 1.9781638383865356),
        (0.24437622725963593, 0.26526379585266113, 0.3535512685775757),
    ),
    "mpts_52": (
        (1.6565313339233398, 1.8407557010650635, 2.1225264072418213),
        (0.2952289581298828, 0.3340013027191162, 0.41885802149772644),
    ),
    "perov_5": ((1.419227957725525,) * 3, (0.07268335670232773,) * 3),
    "alex_mp_20": (
        (1.5808929163076058, 1.74672046352959, 2.065243388307474),
        (0.27284015410437057, 0.2944785731740152, 0.30899526911753017),
    ),
}
"""Mean and standard deviation for a, b, c."""

TOLERANCE = 1e-6


def informed_cell(name: str) -> InformedCell:
    """Return the lattice distribution of a data set, one of `FITS`."""
    mean, std = FITS[name]
    return InformedCell(log_length_mean=mean, log_length_std=std)


def name_of(cell: InformedCell) -> str | None:
    """Return the name of a distribution, or None if it is not one of OMatG's."""
    ours = (*cell.log_length_mean, *cell.log_length_std)
    for name, (mean, std) in FITS.items():
        if all(math.isclose(a, b, abs_tol=TOLERANCE) for a, b in zip(ours, (*mean, *std), strict=True)):
            return name
    return None
