#!/usr/bin/env python
"""Copy a finished asset into the package: the files it needs, known energies and domain of a potential, checksums.

python scripts/assets/adopt.py base runs/assets/base/checkpoints/last --set bundled-prototypes
python scripts/assets/adopt.py potential runs/assets/student --set bundled-prototypes
python scripts/assets/adopt.py schedule runs/annealing_energy/schedule --set bundled-prototypes
python scripts/assets/adopt.py crystals runs/periodic/own --set bundled-periodic
python scripts/assets/adopt.py reinforced runs/periodic/reinforced/checkpoints/best --set bundled-periodic
python scripts/assets/adopt.py base runs/periodic/base/checkpoints/last --set bundled-periodic \
    --schedule constant:pos=5,cell=1,limit=0.6
python scripts/assets/adopt.py seal                 # after editing a card
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

from distill import label_files
from distill import read as read_labels
from domain import of_potential
from identity import fingerprint
from pymatgen.core import Composition

from omatg_ray.assets import CONTENTS, PACKED, has, root, seal
from omatg_ray.assets import crystals as bundled_crystals
from omatg_ray.crystal.domain import DOMAIN_FILE, Domain
from omatg_ray.crystal.read import read_dataset
from omatg_ray.model.flow_model import DESCRIPTION_FILE, WEIGHTS_FILE, FlowModel
from omatg_ray.model.schedule import SCHEDULE_FILE, read_schedule
from omatg_ray.model.schedule import WEIGHTS_FILE as SCHEDULE_WEIGHTS
from omatg_ray.policy.hand_made import HandMadeSchedule
from omatg_ray.policy.schedule import require_straight_paths
from omatg_ray.reward.known_energies import KNOWN_ENERGIES
from omatg_ray.reward.potential import WEIGHT_FILES, load_potential
from omatg_ray.run.atomic import write_json, write_text
from omatg_ray.run.location import PERIODIC, BundledName
from omatg_ray.train.splits import SPLITS

FILES = {
    "base": (DESCRIPTION_FILE, WEIGHTS_FILE),
    "potential": WEIGHT_FILES,
    "schedule": (SCHEDULE_FILE, SCHEDULE_WEIGHTS),
    "reinforced": (DESCRIPTION_FILE, WEIGHTS_FILE),
    "crystals": ("summary.json",),
}
KNOWN = 5  # crystals of the validation split whose energies are checked on every load of the potential
TOLERANCE = 1e-3  # eV/atom; float32 on another machine differs by far less


def main() -> None:
    """Copy and seal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*FILES, "seal"])
    parser.add_argument("source", type=Path, nargs="?")
    parser.add_argument("--set", choices=CONTENTS, help="set of assets that it belongs to")
    parser.add_argument(
        "--labels", type=Path, nargs="+", help="of a potential for bundled-periodic: the labels it was distilled from"
    )
    parser.add_argument(
        "--recovery",
        type=Path,
        help="of a model: an evaluation of it on held-out crystals, which tells how far to trust it",
    )
    parser.add_argument(
        "--schedule", help="of a base: the hand-made schedule that it generates with unless told otherwise"
    )
    arguments = parser.parse_args()
    if arguments.what == "seal":
        for of in CONTENTS:
            for name in has(of):
                seal(root(of) / name)
        return
    schedule = None if arguments.schedule is None else read_schedule(arguments.schedule)
    if schedule is not None and not (arguments.what == "base" and isinstance(schedule, HandMadeSchedule)):
        parser.error("--schedule: a base brings one along that is made by hand, and nothing else does")
    if arguments.source is None or arguments.set is None:
        parser.error(f"name the folder of the {arguments.what}, and with --set the set that it belongs to")
    if arguments.what == "potential" and (arguments.labels is None) == (arguments.set == PERIODIC):
        parser.error("--labels: name their folder for bundled-periodic, and for no other set")
    folder = root(arguments.set) / arguments.what
    folder.mkdir(exist_ok=True, parents=True)
    for file in FILES[arguments.what]:
        shutil.copyfile(arguments.source / file, folder / file)
    if arguments.what == "crystals":
        for part in SPLITS:
            packed = gzip.compress((arguments.source / f"{part}.extxyz").read_bytes(), mtime=0)
            (folder / f"{part}.extxyz{PACKED}").write_bytes(packed)
            (folder / f"{part}.extxyz").unlink(missing_ok=True)
    more: dict[str, Any] = {}
    if schedule is not None:
        more["schedule"] = schedule
    if arguments.recovery is not None:
        more["recovery"] = recovery_in(json.loads(arguments.recovery.read_text(encoding="utf-8")))
    if more:
        model = FlowModel.load(folder)
        require_straight_paths(schedule, model.description.paths)
        model.description = model.description.model_copy(update=more)
        model.save(folder)
    if arguments.what == "potential":
        (folder / KNOWN_ENERGIES).unlink(missing_ok=True)
        write_json(folder / KNOWN_ENERGIES, known_energies(folder, arguments.set))
        domain = of_labels(arguments.labels, arguments.source) if arguments.labels else of_potential()
        write_text(folder / DOMAIN_FILE, domain.model_dump_json(indent=1) + "\n")
    seal(folder)


def recovery_in(evaluation: dict[str, Any]) -> dict[int, float]:
    """Return the match rate of an evaluation by the most atoms of a cell."""
    each = evaluation["per_structure"]
    sizes = [round(Composition(formula).num_atoms) for formula in each["formula"]]
    found: dict[int, float] = {}
    for low, high in ((1, 10), (11, 20), (21, 30), (31, 52)):
        matched = [rmse is not None for rmse, size in zip(each["rmse"], sizes, strict=True) if low <= size <= high]
        found[high] = round(sum(matched) / len(matched), 3)
    return found


def of_labels(folders: list[Path], student: Path) -> Domain:
    """Return the domain of labels.

    Raises:
        SystemExit: The student was distilled from others.
    """
    files = [path for folder in folders for path in label_files(folder)]
    if json.loads((student / "inputs.json").read_text())["labels"] != fingerprint(*files):
        raise SystemExit(f"{student} was distilled from other labels")
    cells = [cell for folder in folders for cell in read_labels(folder).crystals.atomic_numbers]
    return Domain.of(cells, sized=False)


def known_energies(folder: Path, of: BundledName) -> list[dict[str, Any]]:
    """Return a few crystals with the energies that the potential gives them now."""
    dataset = read_dataset(bundled_crystals("val", of))
    rows = [row * len(dataset) // KNOWN for row in range(KNOWN)]
    crystals = dataset.crystals.select(rows)
    energies = (load_potential(folder).energies(crystals, repulsion=False) / crystals.n_atoms).tolist()
    return [
        {
            "structure": {
                "species": [site.specie.symbol for site in structure],
                "pos": structure.frac_coords.tolist(),
                "cell": structure.lattice.matrix.tolist(),
            },
            "energy_per_atom": round(energy, 6),
            "tolerance": TOLERANCE,
        }
        for structure, energy in zip(crystals.to_structures(), energies, strict=True)
    ]


if __name__ == "__main__":
    main()
