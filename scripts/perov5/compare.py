"""Tables of a base model against its reinforced runs on held-out crystals, with paired intervals over several seeds.

    python scripts/perov5/compare.py --base runs/perov5_base --runs runs/velocity_0 runs/velocity_1 runs/velocity_2 \
        --iterations 20 40 --potential POTENTIAL --out runs/perov5_table

Each run is a seed of the same configuration. Every row of the table averages the runs at one iteration; the interval is
the 95 % bootstrap interval, over the held-out crystals, of the difference from the base, crystal by crystal, averaged
over the runs. All models start from the same x_0. Writes one JSON per evaluation, the generated crystals (extxyz),
table.md and table.json.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from omatg_ray.crystal.read import read_dataset
from omatg_ray.crystal.write import write_structures
from omatg_ray.evaluate.backend import LocalEvaluationBackend
from omatg_ray.evaluate.evaluation import Evaluation
from omatg_ray.evaluate.evaluator import Evaluator
from omatg_ray.evaluate.metrics import paired_interval
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.policy.hand_made import LinearSchedule
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.matching import Matcher
from omatg_ray.run.atomic import write_json, write_text


@dataclass(frozen=True)
class Column:
    """A column of the table: title, name of the metric in `CSPMetrics`, and format."""

    title: str
    metric: str
    form: str


COLUMNS = (
    Column("match rate", "match_rate", ".3f"),
    Column("RMSE", "rmse", ".3f"),
    Column("cRMSE", "crmse", ".3f"),
    Column("relative energy, mean", "relative_energy_mean", "+.3f"),
    Column("median", "relative_energy_median", "+.3f"),
    Column("mean, invalid at the cap", "relative_energy_mean_capped", "+.3f"),
    Column("invalid", "invalid_share", ".3f"),
)


@dataclass(frozen=True)
class Scale:
    """Constants that turn an evaluation into values per crystal: reference energies (n,), cap, site tolerance."""

    reference_energy: Tensor
    cap: float
    stol: float

    def values(self, evaluation: Evaluation, metric: str) -> Tensor:
        """Return values (n,) whose mean is the metric; NaN where a crystal has none."""
        match, valid = evaluation.match, evaluation.valid
        if metric == "match_rate":
            return match.isfinite().double()
        if metric == "rmse":
            return match
        if metric == "crmse":
            return match.nan_to_num(nan=self.stol)
        if metric == "invalid_share":
            return (~valid).double()
        assert evaluation.energy is not None
        energy = evaluation.energy
        if metric == "relative_energy_mean_capped":
            energy = torch.where(valid, energy.clamp(max=self.cap), self.cap)
        return energy - self.reference_energy

    def interval(self, before: Evaluation, after: list[Evaluation], metric: str) -> str:
        """Format the mean paired difference from the base with its 95 % interval; empty for a median."""
        if metric == "relative_energy_median":
            return ""
        mean = torch.stack([self.values(evaluation, metric) for evaluation in after]).nanmean(0)
        found = paired_interval(mean, self.values(before, metric))
        return f" ({found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}])"


def main() -> None:
    """Evaluate and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--runs", type=Path, nargs="*", default=[])
    parser.add_argument("--iterations", type=int, nargs="*", default=[])
    parser.add_argument("--data", type=Path, help="default: the test split of the base's run")
    parser.add_argument("--potential", required=True)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--slope-pos", type=float, default=0.0)
    parser.add_argument("--noise", choices=["none", "policy"], default="none")
    parser.add_argument("--no-repulsion", action="store_true", help="energies as in MatGL, also where atoms overlap")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    data = read_dataset(options.data or options.base / "data" / "test.extxyz")
    reward = MatGLEnergy(options.potential, repulsion=not options.no_repulsion)
    schedule = LinearSchedule(pos=options.slope_pos) if options.slope_pos else None
    rows: list[dict[str, str]] = []
    with Matcher(os.cpu_count() or 1) as matcher:
        evaluator = Evaluator(data, LocalEvaluationBackend(matcher, reward), 0, options.limit)

        assert evaluator.reference_energy is not None
        scale = Scale(evaluator.reference_energy, reward.invalid_energy, matcher.settings.stol)

        def measure(path: Path, label: str) -> Evaluation:
            evaluation = evaluator(FlowModel.load(path), Sampling(options.steps, schedule, options.noise), label)
            write_json(options.out / f"{label}.json", evaluation.as_dict())
            write_structures(options.out / f"{label}.extxyz", evaluation.crystals.to_structures())
            print(label, json.dumps(evaluation.metrics.as_dict()), flush=True)
            return evaluation

        before = measure(options.base, "base")
        row = {"": "base"}
        for column in COLUMNS:
            row[column.title] = format(getattr(before.metrics, column.metric), column.form)
        rows.append(row)
        for iteration in options.iterations:
            after = [
                measure(run / "checkpoints" / f"iteration_{iteration:06d}", f"{run.name}_{iteration}")
                for run in options.runs
            ]
            row = {"": f"{iteration} iterations"}
            for column in COLUMNS:
                values = torch.tensor([getattr(e.metrics, column.metric) for e in after])
                text = format(float(values.mean()), column.form)
                row[column.title] = text + scale.interval(before, after, column.metric)
            rows.append(row)
    titles = list(rows[0])
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    lines += ["| " + " | ".join(row[title] for title in titles) + " |" for row in rows]
    write_text(options.out / "table.md", "\n".join(lines) + "\n")
    write_json(options.out / "table.json", rows)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
