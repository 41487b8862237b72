#!/usr/bin/env python
"""Evaluate the base model on the test split at several numbers of steps, with and without hand-made schedules.

  python scripts/assets/check_base.py --potential POTENTIAL --out runs/assets/base_figures

For every number of steps, the slopes of the schedule are chosen on the validation split, by cRMSE.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

from identity import of_model, require_same

from omatg_ray.assets import asset, crystals
from omatg_ray.commands.evaluate import EvaluateOptions, evaluate, table
from omatg_ray.model.sampling import Sampling
from omatg_ray.policy.hand_made import LinearSchedule
from omatg_ray.reward.potential import load_potential
from omatg_ray.run.atomic import write_json
from omatg_ray.run.location import PROTOTYPES
from omatg_ray.run.progress import print_line

STEPS = (10, 50, 100, 500)
SLOPES_POS, SLOPES_CELL = (0.0, 2.0, 5.0, 10.0), (0.0, 2.0)


def main() -> None:
    """Evaluate and print a table; existing evaluations are not repeated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--potential", required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    potential = load_potential(arguments.potential).fingerprint
    require_same(arguments.out / "inputs.json", {"base": of_model(asset("base", PROTOTYPES)), "potential": potential})

    def measured(split: str, steps: int, pos: float, cell: float, potential: str) -> dict[str, Any]:
        path = arguments.out / f"{split}-{steps}-{pos:g}-{cell:g}.json"
        if not path.exists():
            options = EvaluateOptions(
                model=PROTOTYPES,
                data=crystals(split, PROTOTYPES),
                sampling=Sampling(steps, LinearSchedule(pos=pos, cell=cell) if pos or cell else None),
                potential=potential,
            )
            write_json(path, evaluate(options).as_dict()["metrics"])
        return {"label": f"{steps} steps, slopes {pos:g} / {cell:g}", "metrics": json.loads(path.read_text())}

    rows = []
    for steps in STEPS:
        # At 500 steps the grid takes hours and slopes matter least, so use those of 100.
        tuned_at = min(steps, 100)
        choices = [slopes for slopes in product(SLOPES_POS, SLOPES_CELL) if any(slopes)]
        tried = {slopes: measured("val", tuned_at, *slopes, "none")["metrics"]["crmse"] for slopes in choices}
        best = min(choices, key=lambda slopes: tried[slopes])
        print_line(f"{steps} steps: best slopes on the validation split {best}, cRMSE {tried[best]:.3f}")
        rows += [measured("test", steps, *slopes, arguments.potential) for slopes in ((0.0, 0.0), best)]
    write_json(arguments.out / "table.json", rows)
    print(table(rows))


if __name__ == "__main__":
    main()
