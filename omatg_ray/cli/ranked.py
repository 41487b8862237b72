"""What the verbs that rank crystals share: options, writing and printing."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from omatg_ray.cli.arguments import number, path_or_word
from omatg_ray.crystal.standard_crystal import SYMPREC

if TYPE_CHECKING:
    from omatg_ray.cli.output import CrystalsOutput
    from omatg_ray.commands.ranked import RankedCrystals


RELAX_STEPS = 100
"""Most steps of a relaxation that nobody chose."""


def ranking_arguments(sub: argparse.ArgumentParser) -> None:
    """Add the options for a potential that checks the ranks, and for the tolerance of space groups."""
    sub.add_argument(
        "--second-potential",
        type=path_or_word,
        metavar="NAME",
        help="another potential, which shows its own energies of the ranked crystals and marks (?) where it disagrees",
    )
    sub.add_argument(
        "--symprec",
        type=number(float, 0, above=True),
        default=SYMPREC,
        metavar="A",
        help=f"spglib's tolerance in Å, for space groups and --standardize (default {SYMPREC:g})",
    )


def write_ranked(found: RankedCrystals, out: CrystalsOutput, workers: int, timeout: float, progress: bool) -> None:
    """Write ranked crystals, the best alone if there is room for one only, and print their list."""
    from omatg_ray.commands.ranked import bonds_of_best, legend, listing, summary, warn_loose_groups

    count = 1 if out.holds_one else len(found.crystals)
    if out.cell is not None:
        warn_loose_groups(found.properties[:count])
    out.write(found.crystals.select(range(count)), found.properties[:count], workers, timeout, progress, found.symprec)
    for text in (legend(found), listing(found), bonds_of_best(found)):
        print(text)
    if count < len(found.crystals):
        print(
            f"{summary(found)}, best of {len(found.crystals)} written to {out.path} (--out folder/ --format vasp "
            "writes all)"
        )
    else:
        print(f"{summary(found)}, written to {out.path}")
