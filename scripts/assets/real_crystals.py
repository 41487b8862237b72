#!/usr/bin/env python
"""Put the crystals of a base for the periodic table together: MP-20, MPTS-52 and the bundled ones, in one split.

  python scripts/assets/real_crystals.py --mp20 val.csv --mpts52 val.csv --out runs/periodic/crystals

Both are parts of the Materials Project (CC BY 4.0; Jain et al., APL Materials 1, 011002, 2013). MP-20 (Xie et al., ICLR
2022) comes with CDVAE: github.com/txie-93/cdvae, data/mp_20. MPTS-52 (Baird et al., 2022) comes with DiffCSP:
github.com/jiaor17/DiffCSP, data/mpts_52. Each is a file, which may be compressed, with columns `material_id` and `cif`,
or a folder of such. The bundled crystals are those of `--bundled`, a folder as `crystals.py` makes it. The split is our
own: leave the published test files out if figures are to be compared with published ones. Writes train, val and test
.extxyz, with the `source` of every crystal; those of up to 20 atoms in a folder `small`; and the crystals of the test
part that are not bundled in real_test.extxyz.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from parts import Parts, without_repeated_ids

from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.crystal.read import read_dataset
from omatg_ray.crystal.write import write_structures
from omatg_ray.train.splits import SPLITS

SMALL = 20
"""Most atoms of the crystals that training takes first."""
KEPT = ("e_above_hull", "energy_above_hull", "formation_energy_per_atom", "energy_per_atom", "prototype")


def main() -> None:
    """Read, split and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mp20", type=Path, required=True)
    parser.add_argument("--mpts52", type=Path, required=True)
    parser.add_argument("--bundled", type=Path, required=True, help="folder of the bundled crystals")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    bundled = {part: read_dataset(arguments.bundled / f"{part}.extxyz", progress=True) for part in SPLITS}
    parts = Parts(bundled)
    mp20, mpts52 = (read_dataset(path, progress=True) for path in (arguments.mp20, arguments.mpts52))
    real = dict(zip(("mp_20", "mpts_52"), without_repeated_ids([mp20, mpts52]), strict=True))
    split = {name: parts.split(dataset) for name, dataset in real.items()}
    print(f"{'':<6}{'crystals':>9}{'formulas':>9}{'elements':>9}{f'above {SMALL} atoms':>16}   from")
    for part in SPLITS:
        of = {name: split[name][part] for name in real} | {"bundled": bundled[part]}
        whole = CrystalDataset.cat(of.values())
        sources = [name for name, dataset in of.items() for _ in dataset.ids]
        small: list[bool] = (whole.crystals.n_atoms <= SMALL).tolist()
        write(arguments.out / f"{part}.extxyz", whole, sources)
        write(arguments.out / "small" / f"{part}.extxyz", whole, sources, small)
        if part == "test":
            write(arguments.out / f"real_{part}.extxyz", whole, sources, [source != "bundled" for source in sources])
        print(
            f"{part:<6}{len(whole):>9}{len(set(whole.compositions)):>9}{len(whole.elements):>9}"
            + f"{small.count(False):>16}   "
            + ", ".join(f"{name} {count}" for name, count in Counter(sources).items())
        )


def write(path: Path, dataset: CrystalDataset, sources: list[str], keep: list[bool] | None = None) -> None:
    """Write crystals, all or some, with their ids, their sources and what is kept of their other columns."""
    rows = [row for row in range(len(dataset)) if keep is None or keep[row]]
    properties = [
        {key: dataset.properties[row][key] for key in KEPT if key in dataset.properties[row]}
        | {"material_id": dataset.ids[row], "source": sources[row]}
        for row in rows
    ]
    write_structures(path, dataset.select(rows).crystals.to_structures(), properties)


if __name__ == "__main__":
    main()
