#!/usr/bin/env python
"""Evaluate the bundled base and its reinforced runs on the test split, by the bundled potential and by its teacher.

  python scripts/assets/judge.py --runs runs/quickstart --teacher POTENTIAL --out runs/scored

The policy never saw the teacher: a gain only under the bundled potential would be reward hacking. Several runs (seeds)
are averaged. Writes one JSON per evaluation, table.txt, figure.svg and disagreements.txt: how far both potentials are
apart on the crystals of the base and of all runs, and those of the runs that the rewarded one finds better by most.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from identity import of_model, require_same
from matplotlib.figure import Figure

from omatg_ray.assets import asset
from omatg_ray.commands.evaluate import EvaluateOptions, evaluate, table
from omatg_ray.config import Config
from omatg_ray.evaluate.metrics import paired_interval
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.reward.potential import load_potential
from omatg_ray.run.atomic import write_json, write_text
from omatg_ray.run.location import BUNDLED, BUNDLED_NAMES, Location, as_base

WORST = 20
COLOURS = {"base": "#c4622d", "reinforced": "#1f6f9f"}


def main() -> None:
    """Evaluate, print and draw; existing evaluations are not repeated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--set", choices=BUNDLED_NAMES, default=BUNDLED, help="set of the base and the potential")
    parser.add_argument("--data", help="references (default: the test split of the set)")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    names = [run.name for run in arguments.runs]
    if len(set(names)) < len(names):
        parser.error(f"runs need different names: {' '.join(names)}")
    inputs = {"base": of_model(asset("base", arguments.set)), "teacher": load_potential(arguments.teacher).fingerprint}
    inputs |= {"potential": load_potential(arguments.set).fingerprint} | {
        run.name: of_model(run) for run in arguments.runs
    }
    require_same(arguments.out / "inputs.json", inputs)
    steps = Config.load(arguments.runs[0] / "config.yaml").rollout.turns[0]
    policy = FlowModel.load(arguments.runs[0])
    if policy.variant.learns_schedule:
        parser.error(f"{arguments.runs[0]} learned its annealing; the base has nothing to compare with")

    def measured(model: Location, potential: str, name: str) -> dict[str, Any]:
        path = arguments.out / f"{name}.json"
        if not path.exists():
            # The base gets the policy's schedule, so that the difference is due to reinforcement alone.
            options = EvaluateOptions(
                model=model,
                data=arguments.data or arguments.set,
                sampling=Sampling(steps, policy.schedule),
                potential=potential,
            )
            write_json(path, evaluate(options).as_dict())
        return dict(json.loads(path.read_text(encoding="utf-8")))

    lines, panels = [], []
    by_potential: dict[str, list[dict[str, Any]]] = {}
    rows: list[dict[str, Any]] = []
    for title, potential in (("bundled potential", arguments.set), ("teacher", arguments.teacher)):
        short = title.split()[0]
        base = measured(as_base(arguments.set), potential, f"base-{short}")
        runs = [measured(run, potential, f"{run.name}-{short}") for run in arguments.runs]
        by_potential[short] = [base, *runs]
        rows += [{**base, "label": f"base, by the {title}"}]
        rows += [
            {**run, "label": f"{path.name}, by the {title}"} for run, path in zip(runs, arguments.runs, strict=True)
        ]
        after = torch.stack([relative(run) for run in runs])
        interval = paired_interval(after.mean(0), relative(base))
        lines.append(
            f"change of the relative energy by the {title}, valid both times: {interval.mean:+.3f} "
            f"[{interval.low:+.3f}, {interval.high:+.3f}] eV/atom, n = {interval.n}"
        )
        panels.append((title, {"base": relative(base)[None], "reinforced": after}))
    text = "\n".join([table(rows), *lines])
    write_text(arguments.out / "table.txt", text + "\n")
    print(text)
    draw(panels, arguments.out / "figure.svg")
    apart = disagreements(["base", *names], *by_potential.values())
    write_text(arguments.out / "disagreements.txt", apart + "\n")
    print(apart)


def disagreements(names: list[str], ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    """Describe how much worse the second potential finds the crystals of every model than the first, in eV/atom."""
    lines = [f"{'teacher less bundled':<24}{'n':>6}{'median':>8}{'90 % below':>12}{'above 0.5':>11}{'below -0.5':>12}"]
    worst: list[tuple[float, str]] = []
    for name, first, second in zip(names, ours, theirs, strict=True):
        relative_of = relative(first), relative(second)
        difference = relative_of[1] - relative_of[0]
        known = difference[~difference.isnan()]
        tenths = known.quantile(torch.tensor([0.5, 0.9], dtype=known.dtype)).tolist()
        shares = [float(each.double().mean()) for each in (known > 0.5, known < -0.5)]
        lines.append(
            f"{name:<24}{len(known):>6}{tenths[0]:>+8.3f}{tenths[1]:>+12.3f}{shares[0]:>11.2%}{shares[1]:>12.2%}"
        )
        if name == "base":
            continue
        rows = first["per_structure"]
        for place in difference.nan_to_num(-torch.inf).argsort(descending=True)[: min(WORST, len(known))].tolist():
            energies = f"{float(relative_of[0][place]):+.3f} by the bundled one, {float(relative_of[1][place]):+.3f}"
            text = f"{rows['formula'][place]} ({rows['id'][place]}, {name}, {rows['domain'][place]}): {energies}"
            worst.append((float(difference[place]), text))
    worst.sort(reverse=True)
    return "\n".join(
        [*lines, "the bundled potential finds these better than the teacher by most:"]
        + [f"  {difference:+.3f}: {text} by the teacher" for difference, text in worst[:WORST]]
    )


def relative(evaluation: dict[str, Any]) -> torch.Tensor:
    """Return the relative energies (n,), NaN where invalid."""
    values = evaluation["per_structure"]["relative_energy"]
    return torch.tensor([float("nan") if value is None else value for value in values], dtype=torch.float64)


def draw(panels: list[tuple[str, dict[str, torch.Tensor]]], path: Path) -> None:
    """Draw cumulative distributions of the relative energy, with invalid crystals at infinity."""
    figure = Figure(figsize=(9, 3.2), layout="constrained", facecolor="white")
    axes = figure.subplots(1, len(panels), sharey=True)
    for axis, (title, samples) in zip(axes, panels, strict=True):
        for label, values in samples.items():
            found = np.sort(values[~values.isnan()].numpy())
            axis.step(
                found, np.arange(1, len(found) + 1) / values.numel(), where="post", color=COLOURS[label], label=label
            )
        axis.axvline(0, color="0.7", lw=0.8, zorder=0)
        axis.set(xlim=(-0.4, 2.0), ylim=(0, 1), title=f"by the {title}", xlabel="relative energy (eV/atom)")
    axes[0].set_ylabel("share of the structures")
    axes[0].legend(loc="lower right", frameon=False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
