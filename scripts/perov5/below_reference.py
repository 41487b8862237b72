"""Is the reference the lowest arrangement? Counts generated crystals below it and asks a second potential.

    python scripts/perov5/below_reference.py --reference runs/perov5_base/data/test.extxyz --data perov_5.csv \
        --generated runs/perov5_table/velocity_0_40.extxyz --potentials PBE_FOLDER R2SCAN_FOLDER

A crystal counts as lower when its energy per atom is more than 10 meV below that of its reference. Perov-5 holds many
compositions twice, with the two cations exchanged. If the data has such a twin of a reference, the script counts how
often the twin is lower, and how many of the lower generated crystals match it.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from omatg_ray.crystal.read import read_dataset
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.matching import Matcher

MARGIN = 0.010


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--generated", type=Path, nargs="+", required=True)
    parser.add_argument("--potentials", nargs="+", required=True)
    options = parser.parse_args()

    references, everything = read_dataset(options.reference), read_dataset(options.data)
    rewards = [MatGLEnergy(potential) for potential in options.potentials]
    names = [Path(potential).name for potential in options.potentials]
    reference_energies = [reward(references.crystals).values["energy_per_atom"] for reward in rewards]

    twin_of: dict[int, int] = {}
    for row, (ident, formula) in enumerate(zip(references.ids, references.compositions, strict=True)):
        for other, (name, composition) in enumerate(zip(everything.ids, everything.compositions, strict=True)):
            if composition == formula and name != ident:
                twin_of[row] = other
    rows = list(twin_of)
    twins = everything.crystals.select([twin_of[row] for row in rows])
    print(f"{len(references)} references, {len(rows)} with a twin of the same composition in the data")
    for name, reward, energy in zip(names, rewards, reference_energies, strict=True):
        difference = reward(twins).values["energy_per_atom"] - energy[rows]
        print(f"  {name}: the twin is lower by more than {MARGIN} eV/atom in {int((difference < -MARGIN).sum())}")

    with Matcher(os.cpu_count() or 1) as matcher:
        for path in options.generated:
            generated = read_dataset(path, reduce=False, allow_overlaps=True).crystals
            match = matcher.pairs(generated, references.crystals).rmse.isfinite()
            to_twin = torch.zeros(len(generated), dtype=torch.bool)
            to_twin[rows] = matcher.pairs(generated.select(rows), twins).rmse.isfinite()
            lower = [
                reward(generated).values["energy_per_atom"] < energy - MARGIN
                for reward, energy in zip(rewards, reference_energies, strict=True)
            ]
            both = torch.stack(lower).all(0)
            print(f"{path.name}: {len(generated)} crystals, {int(match.sum())} match the reference")
            for name, below in zip(names, lower, strict=True):
                print(
                    f"  {name}: {int(below.sum())} lower than the reference, of which {int((below & ~match).sum())} do "
                    f"not match it; {int((below & to_twin).sum())} match the twin"
                )
            print(
                f"  lower by all of {', '.join(names)}: {int(both.sum())}, {int((both & ~match).sum())} without a match"
            )


if __name__ == "__main__":
    main()
