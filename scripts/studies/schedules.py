#!/usr/bin/env python
"""Learn schedules on four landscapes and on three of them each, and compare them on all with schedules made by hand.

  python scripts/studies/schedules.py --crystals runs/periodic/crystals --perov5 perov_5.csv --out runs/schedules

The landscapes are the crystals of bundled-prototypes, of Perov-5, and what `--crystals` (made by
scripts/assets/real_crystals.py) has of MP-20 and of MPTS-52; the model is the bundled base, the reward minus the energy
by the bundled potential. Every schedule depends on the length of the step and on the number of atoms. One is learned on
each landscape, and one on the three others (as many training crystals of each), which has not seen it. Then all are
compared on test crystals, together with that of the package and with those made by hand, which are tuned on validation
crystals. Writes the report of `omatg-ray ablate`. What is finished is kept; an interrupted study goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from study_run import finish

import omatg_ray as og
from omatg_ray.assets import crystals
from omatg_ray.commands.ablate import ablate
from omatg_ray.commands.ablate_settings import AblationSettings, SetSettings
from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.crystal.read import read_dataset
from omatg_ray.crystal.split import split_by_composition
from omatg_ray.crystal.write import write_structures
from omatg_ray.evaluate.evaluation import spread_rows
from omatg_ray.evaluate.settings import TuningSettings
from omatg_ray.run.location import BUNDLED, PROTOTYPES, as_base
from omatg_ray.train.splits import SPLITS

CONFIG = Path(__file__).parents[2] / "configs" / "annealing_energy.yaml"
KEYS = [
    f"base={BUNDLED}",
    f"reward.potential={BUNDLED}",
    "policy.learned_schedule.features=[steps, atoms]",
    "rollout.steps=[10, 5, 20, 40]",
    "rollout.groups=24",
    "rollout.groups_per_item=24",
    "validation.limit=128",
    "threads=1",
    "test=false",
]
TUNING = TuningSettings(limits=[0.6], by="relative_energy_mean_capped", limit=64, most_steps=20)
SHARES = {"train": 600, "val": 100, "test": 200}
"""Crystals of a landscape, at most."""

Landscape = Mapping[str, CrystalDataset]


def spread(dataset: CrystalDataset, most: int) -> CrystalDataset:
    """Return so many crystals, evenly spread over a data set."""
    return dataset.select(spread_rows(len(dataset), most))


def landscapes(folder: Path, perov5: Path) -> dict[str, Landscape]:
    """Read the four landscapes, each of three splits without a common composition."""
    real = {part: read_dataset(folder / f"{part}.extxyz", progress=True) for part in SPLITS}

    def source(name: str) -> Landscape:
        return {
            part: dataset.select([row for row, of in enumerate(dataset.properties) if of["source"] == name])
            for part, dataset in real.items()
        }

    split = split_by_composition(read_dataset(perov5, progress=True), val=0.1, test=0.1)
    found: dict[str, Landscape] = {
        "prototypes": {part: read_dataset(crystals(part, PROTOTYPES)) for part in SPLITS},
        "perov_5": {part: getattr(split, part) for part in SPLITS},
        "mp_20": source("mp_20"),
        "mpts_52": source("mpts_52"),
    }
    return {name: {part: spread(of[part], SHARES[part]) for part in SPLITS} for name, of in found.items()}


def write(of: Sequence[Landscape], folder: Path) -> dict[str, Path]:
    """Write the crystals of some landscapes, split by split, and return the files."""
    files = {part: folder / f"{part}.extxyz" for part in SPLITS}
    for part, path in files.items():
        if not path.exists():
            dataset = CrystalDataset.cat(landscape[part] for landscape in of)
            write_structures(path, dataset.crystals.to_structures(), [{"material_id": name} for name in dataset.ids])
    return files


def learn(files: Mapping[str, Path], seed: int, iterations: int, run: Path) -> Path:
    """Return the folder of a run that learns a schedule, which is made if there is none."""
    data = [f"data.{part}={path}" for part, path in files.items()]
    finish(og.Config.load(CONFIG, [*KEYS, *data, f"seed={seed}", f"iterations={iterations}", f"run={run}"]))
    return run


def main() -> None:
    """Learn what is missing, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crystals", type=Path, required=True)
    parser.add_argument("--perov5", type=Path, required=True)
    parser.add_argument("--iterations", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 50])
    parser.add_argument("--limit", type=int, default=150, help="test crystals of each landscape")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    found = landscapes(arguments.crystals, arguments.perov5)
    sets: dict[str, SetSettings] = {}
    for name, landscape in found.items():
        files = write([landscape], arguments.out / "crystals" / name)
        others = write([of for other, of in found.items() if other != name], arguments.out / "crystals" / f"not_{name}")
        own, transferred = (
            learn(of, arguments.seed, arguments.iterations, arguments.out / "learned" / where)
            for where, of in ((name, files), (f"not_{name}", others))
        )
        sets[name] = SetSettings(
            model=as_base(BUNDLED),
            val=files["val"],
            test=files["test"],
            potential=BUNDLED,
            learned={"here": [own], "elsewhere": [transferred], "bundled": [BUNDLED]},
        )
    settings = AblationSettings(
        run=arguments.out / "ablation",
        sets=sets,
        steps=arguments.steps,
        kinds=["linear", "constant"],
        tuning=TUNING,
        limit=arguments.limit,
        threads=1,
        workers=1,
    )
    print(f"the report: {ablate(settings, progress=True)[1]}")


if __name__ == "__main__":
    main()
