"""What the verbs that rank crystals share: the second potential, writing and printing."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from omatg_ray.cli.arguments import path_or_word

if TYPE_CHECKING:
    from omatg_ray.cli.output import CrystalsOutput
    from omatg_ray.commands.ranked import RankedCrystals


def second_potential_argument(sub: argparse.ArgumentParser) -> None:
    """Add the option for a potential that checks the ranks."""
    sub.add_argument(
        "--second-potential",
        type=path_or_word,
        metavar="NAME",
        help="another potential, which shows its own energies of the ranked crystals and marks (?) where it disagrees",
    )


def write_ranked(found: RankedCrystals, out: CrystalsOutput, workers: int, timeout: float, progress: bool) -> None:
    """Write ranked crystals, the best alone if there is room for one only, and print their list."""
    from omatg_ray.commands.ranked import bonds_of_best, legend, listing, summary

    count = 1 if out.holds_one else len(found.crystals)
    out.write(found.crystals.select(range(count)), found.properties[:count], workers, timeout, progress)
    for text in (legend(found), listing(found), bonds_of_best(found)):
        print(text)
    if count < len(found.crystals):
        print(
            f"{summary(found)}, best of {len(found.crystals)} written to {out.path} (--out folder/ --format vasp "
            "writes all)"
        )
    else:
        print(f"{summary(found)}, written to {out.path}")
