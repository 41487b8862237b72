"""Learning curves of ways to reinforce the bundled model, over processor seconds and over energies.

    python scripts/studies/learning_curves.py --seeds 0 1 2 --out runs/curves --figure docs/figures/curves.svg

Every way starts from the bundled schedule and generates at 10 grid points. Processor seconds are those of this process,
which has one thread, without validations. An energy with its gradient counts as three. Curves are the capped mean over
all validation crystals; the table says when each way first reached what policy gradients end at, seed by seed. Finished
runs are kept and only drawn again; an interrupted one goes on.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path

from study_run import SECONDS, finish

import omatg_ray as og
from omatg_ray.run.location import PROTOTYPES

CONFIGS = Path(__file__).parents[2] / "configs"
ENERGIES = "energies"
SCORE = "relative_energy_mean_capped"
PER_GRADIENT = 3
ON_PROTOTYPES = [f"{key}={PROTOTYPES}" for key in ("base", "reward.potential", "policy.schedule_from")]


@dataclass(frozen=True)
class Way:
    """A way to reinforce: a configuration, what it changes, iterations between validations, and how it is drawn."""

    config: str
    every: int
    colour: str
    keys: list[str] = field(default_factory=list)


BY_POLICY, BY_GRADIENT = "policy gradient", "reward gradient (the main job)"
WAYS = {
    BY_POLICY: Way("bundled_velocity", 20, "#1f6f9f", ["policy.fixed_schedule=null", "iterations=120"]),
    BY_GRADIENT: Way("quickstart", 5, "#c4622d"),
    "one step, from t = 0.85": Way(
        "quickstart", 5, "#e0a458", ["policy.acts_from=0.85", "objective.reward_gradient.transitions=1"]
    ),
    "from the start (no gate)": Way("quickstart", 5, "#7a5195", ["policy.acts_from=0"]),
    "with distance 0.02": Way("quickstart", 5, "#6a994e", ["objective.reward_gradient.distance=0.02"]),
    "without flow matching": Way("quickstart", 5, "#8d99ae", ["objective.flow_matching=null"]),
}


def measure(way: Way, seed: int, run: Path) -> list[dict[str, float]]:
    """Return the validations of a run, which is made if there is none."""
    keys = [f"seed={seed}", f"run={run}", "threads=1", "test=false", "validation.limit=null", "iterations=90"]
    config = og.Config.load(
        CONFIGS / f"{way.config}.yaml", [*keys, *ON_PROTOTYPES, f"validation.every={way.every}", *way.keys]
    )
    energies = config.rollout.groups * config.rollout.group_size
    energies *= PER_GRADIENT if config.objective.reward_gradient else 1
    return [{**row, ENERGIES: float(row["step"] * energies)} for row in finish(config, progress=False)]


def first_at(curve: list[dict[str, float]], score: float) -> dict[str, float] | None:
    """Return the first validation at or below a score."""
    return next((row for row in curve if row[SCORE] <= score), None)


def show(curves: dict[str, list[list[dict[str, float]]]]) -> None:
    """Print, way by way and seed by seed, where it ended and when it reached what policy gradients end at."""
    print(f"{'':<32}{'seed':>5}{'seconds':>9}{'energies':>10}{'capped':>8}   as low as by policy: seconds, energies")
    for name, seeds in curves.items():
        for seed, curve in enumerate(seeds):
            last, reached = curve[-1], ""
            if name != BY_POLICY and seed < len(curves.get(BY_POLICY, [])):
                end = curves[BY_POLICY][seed][-1]
                there = first_at(curve, end[SCORE])
                if there is not None and there[SECONDS]:
                    ratios = [end[key] / there[key] for key in (SECONDS, ENERGIES)]
                    reached = f"{there[SECONDS]:.0f} (1/{ratios[0]:.1f}), {there[ENERGIES]:,.0f} (1/{ratios[1]:.1f})"
            print(f"{name:<32}{seed:>5}{last[SECONDS]:>9.0f}{last[ENERGIES]:>10,.0f}{last[SCORE]:>+8.3f}   {reached}")


def draw(curves: dict[str, list[list[dict[str, float]]]], path: Path) -> None:
    """Draw what each seed's capped mean has changed by, over processor seconds and energies, both logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained", facecolor="white")
    for ax, key, label in zip(
        figure.subplots(1, 2, sharey=True),
        (SECONDS, ENERGIES),
        ("processor seconds", "energies (one with gradient counts as three)"),
        strict=True,
    ):
        for name, seeds in curves.items():
            for seed, curve in enumerate(seeds):
                points = [(row[key], row[SCORE] - curve[0][SCORE]) for row in curve if row[key]]
                ax.plot(
                    *zip(*points, strict=True), color=WAYS[name].colour, linewidth=1.4, label=None if seed else name
                )
        ax.axhline(0.0, color="black", linewidth=0.8, linestyle=":")
        ax.set(xscale="log", xlabel=label)
    figure.axes[0].set_ylabel("change of the capped mean (eV/atom)")
    figure.axes[1].legend(frameon=False, fontsize=8, loc="lower left")
    figure.savefig(path)


def main() -> None:
    """Train what is missing, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--finalists", nargs="+", choices=list(WAYS), default=[BY_POLICY, BY_GRADIENT])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    curves: dict[str, list[list[dict[str, float]]]] = {}
    for name in options.ways:
        seeds = options.seeds if name in options.finalists else options.seeds[:1]
        folder = "".join(letter if letter.isalnum() else "_" for letter in name)
        curves[name] = [measure(WAYS[name], seed, options.out / f"{folder}_{seed}") for seed in seeds]
    (options.out / "curves.json").write_text(json.dumps(curves))
    show(curves)
    if options.figure:
        draw(curves, options.figure)


if __name__ == "__main__":
    main()
