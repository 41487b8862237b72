#!/usr/bin/env python
"""Make the bundled crystals from relaxed prototypes: drop unphysical and duplicate ones, split, write.

  python scripts/assets/crystals.py --relaxed work/relaxed.jsonl --out work/crystals
  python scripts/assets/crystals.py --relaxed work/larger.jsonl --beside work/crystals --largest 52 --out work/all

With `--beside`, crystals of other compositions are added to those, in the one split of `parts.py`. For every
composition, the lowest polymorph is kept, and those up to 0.4 eV/atom above it that differ from all lower ones by the
tolerances used to match generated crystals.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import spglib
from ase.data import covalent_radii
from parts import Parts
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Element, Structure

from omatg_ray.assets import seal
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.crystal.read import read_dataset
from omatg_ray.crystal.split import split_by_composition
from omatg_ray.crystal.write import write_structures
from omatg_ray.run.progress import Progress
from omatg_ray.train.splits import SPLITS

SYMMETRY = 0.02  # Å, tolerance of the space group
ABOVE_LOWEST = 0.4  # eV/atom
CLOSEST = 0.7  # in units of the sum of the covalent radii
SMALLEST, LARGEST = 2, 20
VAL_COMPOSITIONS, TEST_COMPOSITIONS, SPLIT_SEED = 90, 120, 0


class Crystal(NamedTuple):
    """A relaxed crystal and the properties written with it."""

    structure: Structure
    properties: dict[str, Any]

    @property
    def energy(self) -> float:
        """Energy in eV/atom under the potential that relaxed it."""
        return float(self.properties["energy_per_atom"])


def main() -> None:
    """Read, select, split and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--relaxed", type=Path, required=True, help="output of relax.py")
    parser.add_argument("--out", type=Path, required=True, help="folder of the asset")
    parser.add_argument("--beside", type=Path, help="folder of crystals that these are added to")
    parser.add_argument("--largest", type=int, default=LARGEST, help="most atoms of a primitive cell (default 20)")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    there = read_parts(arguments.beside) if arguments.beside else {}
    parts = Parts(there)
    records = [json.loads(line) for line in arguments.relaxed.read_text(encoding="utf-8").splitlines()]
    new = [record for record in records if record["id"].partition("-")[0] not in parts.known]
    relaxed = [record for record in new if "dropped" not in record]
    with multiprocessing.get_context("spawn").Pool(arguments.workers) as pool:
        by_formula = defaultdict(list)
        with Progress(len(relaxed), "symmetrise") as bar:
            for crystal in pool.imap(partial(physical, largest=arguments.largest), relaxed, chunksize=32):
                if crystal is not None:
                    by_formula[crystal.structure.composition.reduced_formula].append(crystal)
                bar.advance()
        kept: list[Crystal] = []
        with Progress(len(by_formula), "compare polymorphs") as bar:
            for polymorphs in pool.imap(distinct, by_formula.values(), chunksize=4):
                kept += polymorphs
                bar.advance()
    dataset = CrystalDataset(
        CrystalBatch.from_structures([crystal.structure for crystal in kept]),
        [crystal.properties["material_id"] for crystal in kept],
        [crystal.properties for crystal in kept],
    )
    if there:
        split = parts.split(dataset)
    else:
        first = split_by_composition(dataset, VAL_COMPOSITIONS, TEST_COMPOSITIONS, SPLIT_SEED)
        split = {name: getattr(first, name) for name in SPLITS}
    place = {ident: row for row, ident in enumerate(dataset.ids)}
    before = {name: crystals_of(dataset) for name, dataset in there.items()}
    sizes: dict[str, int] = {}
    for name in SPLITS:
        crystals = [*before.get(name, []), *(kept[place[ident]] for ident in split[name].ids)]
        write_structures(
            arguments.out / f"{name}.extxyz", [one.structure for one in crystals], [one.properties for one in crystals]
        )
        sizes[name] = len(crystals)
    if there:
        kept = [one for crystals in before.values() for one in crystals] + kept
    summary = {"beside": sum(map(len, before.values()))} if there else {}
    summary |= describe(new, by_formula, kept) | sizes
    (arguments.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    seal(arguments.out)
    print(json.dumps({key: value for key, value in summary.items() if not isinstance(value, dict)}, indent=1))


def read_parts(folder: Path) -> dict[str, CrystalDataset]:
    """Read the three parts in a folder as they are."""
    return {part: read_dataset(folder / f"{part}.extxyz", reduce=False) for part in SPLITS}


def crystals_of(dataset: CrystalDataset) -> list[Crystal]:
    """Return the crystals of a data set with what is written of them."""
    rows = zip(dataset.crystals.to_structures(), dataset.ids, dataset.properties, strict=True)
    return [Crystal(structure, {"material_id": ident} | properties) for structure, ident, properties in rows]


def physical(record: dict[str, Any], largest: int = LARGEST) -> Crystal | None:
    """Symmetrise a line of relax.py to its primitive cell; None if it is too large or its atoms are too close."""
    structure = Structure(record["cell"], record["symbols"], record["positions"])
    cell = (structure.lattice.matrix.tolist(), structure.frac_coords.tolist(), structure.atomic_numbers)
    dataset = spglib.get_symmetry_dataset(cell, symprec=SYMMETRY)
    primitive = spglib.standardize_cell(cell, to_primitive=True, symprec=SYMMETRY)
    if dataset is None or primitive is None:
        return None
    lattice, positions, numbers = primitive
    structure = Structure(lattice, [Element.from_Z(z) for z in numbers], positions)
    if not SMALLEST <= len(structure) <= largest:
        return None
    radii = covalent_radii[np.asarray(structure.atomic_numbers)]
    centres, neighbours, _, distances = structure.get_neighbor_list(5.0)
    if len(distances) == 0 or (distances / (radii[centres] + radii[neighbours])).min() < CLOSEST:
        return None
    return Crystal(
        structure,
        {
            "material_id": record["id"],
            "prototype": record["prototype"].replace(" ", "_"),
            "space_group": int(dataset.number),
            "energy_per_atom": round(record["energy_per_atom"], 5),
        },
    )


def distinct(polymorphs: list[Crystal]) -> list[Crystal]:
    """Keep, from the lowest up, those within the energy window that match none of the lower ones."""
    # The tolerances of the evaluation: crystals that it cannot tell apart are one polymorph.
    matcher = StructureMatcher(ltol=0.3, stol=0.5, angle_tol=10)
    ordered = sorted(polymorphs, key=lambda crystal: (crystal.energy, len(crystal.structure)))
    kept: list[Crystal] = []
    for crystal in ordered:
        if crystal.energy > ordered[0].energy + ABOVE_LOWEST:
            break
        if not any(matcher.fit(crystal.structure, other.structure) for other in kept):
            kept.append(crystal)
    return kept


def describe(
    records: list[dict[str, Any]], by_formula: dict[str, list[Crystal]], kept: list[Crystal]
) -> dict[str, Any]:
    """Count crystals for the card."""
    polymorphs: dict[str, list[Crystal]] = defaultdict(list)
    for crystal in kept:
        polymorphs[crystal.structure.composition.reduced_formula].append(crystal)
    several = [group for group in polymorphs.values() if len(group) > 1]
    gaps = [group[1].energy - group[0].energy for group in several]
    return {
        "candidates": len(records),
        "relaxed": sum("dropped" not in record for record in records),
        "physical": sum(map(len, by_formula.values())),
        "kept": len(kept),
        "compositions": len(polymorphs),
        "compositions_with_several_polymorphs": len(several),
        "elements": len({symbol for crystal in kept for symbol in crystal.structure.symbol_set}),
        "prototypes": dict(_counted(crystal.properties["prototype"] for crystal in kept)),
        "space_groups": dict(_counted(str(crystal.properties["space_group"]) for crystal in kept)),
        "sizes": dict(sorted(_counted(len(crystal.structure) for crystal in kept))),
        "median_gap_to_second_polymorph": float(np.median(gaps)) if gaps else None,
    }


def _counted(values: Any) -> list[tuple[Any, int]]:
    from collections import Counter

    return Counter(values).most_common()


if __name__ == "__main__":
    main()
