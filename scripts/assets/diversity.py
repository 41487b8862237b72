#!/usr/bin/env python
"""Diversity of samplers: unique crystals and known polymorphs found among k samples of every composition.

  python scripts/assets/diversity.py --models bundled/base runs/quickstart --steps 20 --out runs/diversity.json
  python scripts/assets/diversity.py --models runs/lowest --guidance 0 --guidance 1 --guidance 0,3 --out runs/dial.json

Compositions are those of a bundled split (test by default) whose cells have several known polymorphs. `any` is the
share of samples that match one of them, with the tolerances of the evaluation, `lowest` the share whose closest
polymorph is the one of lowest energy in the file, `judged` the same by the potential of `--set`, and `coverage` the
share of the known polymorphs that any sample matches.
`energy` and `best` are the energies above the lowest of them, all by the potential of `--set` (eV/atom; those far
above, and invalid ones, at the cap), the mean of all samples and that of the best sample of each composition; the file
has the latter for the first 1, 2, 4, ... samples, too (`best_of`).
`unique` counts distinct crystals among the valid ones of a composition (StructureMatcher, pymatgen's own tolerances).
Intervals are 95 %, with compositions resampled, also for the paired differences from the first model. With --relax N,
the same is measured once more, after every sample was relaxed in at most N steps with the bundled potential.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omatg_ray.assets import crystals as bundled_crystals
from omatg_ray.cli.arguments import weights
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.read import read_dataset
from omatg_ray.crystal.validity import check_validity
from omatg_ray.evaluate.metrics import mean_interval, paired_interval
from omatg_ray.evaluate.polymorphs import Polymorphs, lowest_of
from omatg_ray.evaluate.relaxation import relax_all
from omatg_ray.evaluate.unique import find_unique
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import UNGUIDED, Sampling
from omatg_ray.model.schedule import HELP, OWN, read_schedule
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.matching import Matcher
from omatg_ray.run.atomic import write_json
from omatg_ray.run.location import BUNDLED, BUNDLED_NAMES

COMPARED = ("any", "lowest", "judged", "unique", "coverage")
ENERGIES = ("energy", "best")
RELAXED = "relaxed"


def main() -> None:
    """Generate, compare and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--set", choices=BUNDLED_NAMES, default=BUNDLED, help="set of the crystals and the potential")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--schedule", default=OWN, help=f"schedule for all models, instead of their own: {HELP}")
    parser.add_argument(
        "--guidance",
        action="append",
        type=weights,
        metavar="W,...",
        help="as of `omatg-ray generate`; repeat it for rows",
    )
    parser.add_argument("--noise", choices=["none", "policy"], default="none")
    parser.add_argument("-k", type=int, default=16, help="samples per composition")
    parser.add_argument("--limit", type=int, default=60, help="compositions, spread over the split")
    parser.add_argument("--split", choices=["val", "test"], default="test")
    parser.add_argument("--relax", type=int, default=0, metavar="N", help="also measure after N steps of relaxation")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    dataset = read_dataset(bundled_crystals(arguments.split, arguments.set))
    known, energy = dataset.crystals, [float(row["energy_per_atom"]) for row in dataset.properties]
    of_row = Polymorphs(known, range(len(known))).of_row
    groups = sorted({tuple(places) for places in of_row if places})
    chosen = [groups[i * len(groups) // arguments.limit] for i in range(min(arguments.limit, len(groups)))]
    schedule = read_schedule(arguments.schedule)
    potential = MatGLEnergy(arguments.set)
    of_known = energies_of(known, potential)

    def measured(made: CrystalBatch) -> dict[str, Any]:
        above = energies_above(energies_of(made, potential), of_known, chosen, potential.invalid_energy)
        return measure(made, known, energy, of_known.tolist(), chosen, arguments.k, arguments.workers) | above

    results = {}
    print(f"{'':<30}{'valid':>8}" + "".join(f"{key:>22}" for key in (*COMPARED, *ENERGIES)))
    samplers = [(model, guidance) for model in arguments.models for guidance in arguments.guidance or [UNGUIDED]]
    names = [model if guidance == UNGUIDED else f"{model} {guidance}" for model, guidance in samplers]
    for name, (model, guidance) in zip(names, samplers, strict=True):
        species = [known.select([group[0]]).species.tolist() for group in chosen for _ in range(arguments.k)]
        sampling = Sampling(arguments.steps, schedule=schedule, noise=arguments.noise, guidance=guidance)
        made = FlowModel.load(model).generate(species, sampling, seed=arguments.seed)
        row = results[name] = measured(made)
        show(name, row)
        if arguments.relax:
            relaxed = relax_all(made, potential, arguments.relax, progress=True)
            row[RELAXED] = measured(relaxed.crystals)
            steps = float(relaxed.steps[relaxed.energy.isfinite()].double().mean())
            row[RELAXED] |= {"relax": arguments.relax, "steps": steps}
            show(f"  relaxed, {steps:.1f} steps", row[RELAXED])
        write_json(arguments.out, results)
    first, *others = names
    for name in others:
        print(f"{name} less {first}:")
        show_changes(results[first], results[name])
        if arguments.relax:
            print("  relaxed:")
            show_changes(results[first][RELAXED], results[name][RELAXED])


def show(name: str, row: dict[str, Any]) -> None:
    """Print a line of the table."""
    intervals = [row[key] for key in (*COMPARED, *ENERGIES)]
    shown = "".join(f"{i['mean']:>8.3f} [{i['low']:.3f}, {i['high']:.3f}]" for i in intervals)
    print(f"{name:<30}{row['valid']:>8.3f}{shown}", flush=True)


def show_changes(first: dict[str, Any], other: dict[str, Any]) -> None:
    """Print the paired differences of another model from the first."""
    for key in (*COMPARED, *ENERGIES):
        before, after = (torch.tensor(row[key]["each"], dtype=torch.float64) for row in (first, other))
        change = paired_interval(after, before)
        print(f"  {key:<10}{change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]")


def energies_of(crystals: CrystalBatch, potential: MatGLEnergy) -> Tensor:
    """Return the energies per atom (n,) in eV, NaN where invalid."""
    return potential(crystals).values["energy_per_atom"].double()


def energies_above(energies: Tensor, known: Tensor, groups: list[tuple[int, ...]], cap: float) -> dict[str, Any]:
    """Measure energies (groups · k,) against the lowest of `known` in each group; values above the cap are the cap."""
    capped = torch.where(energies.isnan(), cap, energies.clamp(max=cap)).view(len(groups), -1)
    lowest = torch.stack([known[list(group)].nan_to_num(nan=torch.inf).min() for group in groups])
    above = capped - lowest[:, None]
    best_of = {
        k: _interval(above[:, :k].min(1).values.tolist()) for k in (1, 2, 4, 8, 16, 32, 64) if k <= above.shape[1]
    }
    best = _interval(above.min(1).values.tolist())
    return {"energy": _interval(above.mean(1).tolist()), "best": best, "best_of": best_of}


def measure(
    made: CrystalBatch,
    known: CrystalBatch,
    energy: list[float],
    judged: list[float],
    groups: list[tuple[int, ...]],
    k: int,
    workers: int,
) -> dict[str, Any]:
    """Measure k samples for every group of polymorphs, in order.

    `energy` has the energies of all known crystals in the file, `judged` those by a potential.
    """
    members = range(k)
    pairs = [(group * k + m, place) for group, places in enumerate(groups) for place in places for m in members]
    with Matcher(workers) as matcher:
        rmse = matcher.listed(made, known, pairs).rmse
    distance = {pair: value for pair, value in zip(pairs, rmse.tolist(), strict=True) if not math.isnan(value)}
    closest: dict[int, int] = {}
    for b, place in sorted(distance, key=distance.__getitem__):
        closest.setdefault(b, place)
    matched = [sum(group * k + m in closest for m in members) / k for group in range(len(groups))]

    def shares(energies: list[float]) -> list[float]:
        lowest = lowest_of(groups, dict(enumerate(energies)))
        return [
            sum(low is not None and closest.get(group * k + m) == low for m in members) / k
            for group, low in enumerate(lowest)
        ]

    found = distance.keys()
    coverage = [
        sum(any((group * k + m, place) in found for m in members) for place in places) / len(places)
        for group, places in enumerate(groups)
    ]
    clusters = find_unique(made, workers=workers)
    valid = check_validity(made).valid
    cluster = clusters.cluster.view(-1, k)
    unique = [len(row[ok].unique()) for row, ok in zip(cluster, valid.view(-1, k), strict=True)]
    return {
        "k": k,
        "compositions": len(groups),
        "valid": float(valid.double().mean()),
        "any": _interval(matched),
        "lowest": _interval(shares(energy)),
        "judged": _interval(shares(judged)),
        "unique": _interval([float(n) for n in unique]),
        "coverage": _interval(coverage),
        "timed_out": clusters.timed_out,
    }


def _interval(values: list[float]) -> dict[str, Any]:
    interval = mean_interval(torch.tensor(values, dtype=torch.float64))
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "each": values}


if __name__ == "__main__":
    main()
