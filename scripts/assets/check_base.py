#!/usr/bin/env python
"""The base model on the test split at several numbers of steps, with and without hand-made annealing.

  python scripts/assets/check_base.py --model omatg_ray/assets/base --potential POTENTIAL --out work/base_figures

For every number of steps the slopes of the annealing are chosen on the validation split, by cRMSE.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

from omatg_ray.bundle import crystals
from omatg_ray.commands.evaluate import EvaluateOptions, evaluate, table
from omatg_ray.policy.annealing import LinearAnnealing
from omatg_ray.run.progress import print_line

STEPS = (10, 50, 100, 500)
SLOPES_POS, SLOPES_CELL = (0.0, 2.0, 5.0, 10.0), (0.0, 2.0)


def main() -> None:
    """Evaluates and prints a table; what is there is not done again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--potential", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    def measured(split: str, steps: int, pos: float, cell: float, potential: str) -> dict[str, Any]:
        path = arguments.out / f"{split}-{steps}-{pos:g}-{cell:g}.json"
        if not path.exists():
            options = EvaluateOptions(
                model=arguments.model,
                data=crystals(split),
                steps=steps,
                schedule=LinearAnnealing(pos=pos, cell=cell) if pos or cell else None,
                potential=potential,
                threads=arguments.threads,
            )
            path.write_text(json.dumps(evaluate(options).as_dict()["metrics"]), encoding="utf-8")
        return {"label": f"{steps} steps, slopes {pos:g} / {cell:g}", "metrics": json.loads(path.read_text())}

    rows = []
    for steps in arguments.steps:
        # At 500 steps the grid takes hours and slopes matter least: those of 100 are taken.
        tuned_at = min(steps, 100)
        choices = [slopes for slopes in product(SLOPES_POS, SLOPES_CELL) if any(slopes)]
        tried = {slopes: measured("val", tuned_at, *slopes, "none")["metrics"]["crmse"] for slopes in choices}
        best = min(choices, key=lambda slopes: tried[slopes])
        print_line(f"{steps} steps: best slopes on the validation split {best}, cRMSE {tried[best]:.3f}")
        rows += [measured("test", steps, *slopes, arguments.potential) for slopes in ((0.0, 0.0), best)]
    print(table(rows))


if __name__ == "__main__":
    main()
