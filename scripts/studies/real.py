#!/usr/bin/env python
"""Reinforce the bundled base on real crystals, an hour of a core for each way and seed, and compare.

  python scripts/studies/real.py --crystals runs/periodic/crystals --teacher POTENTIAL --second OTHER --out runs/real

`--crystals` is what scripts/assets/real_crystals.py made. Rewards are by the bundled potential. Each run takes one
thread and ends when it has used its processor time, validations not counted; its checkpoint that was best on validation
crystals is compared with the base on the held-out real crystals, with energies by both potentials. Writes tables.md, in
which the seeds of a way are taken together. What is finished is kept, so an interrupted study goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import by_size
from study_run import finish

import omatg_ray as og
from omatg_ray.evaluate.change import changes
from omatg_ray.model.schedule import OWN
from omatg_ray.run.atomic import write_json, write_text
from omatg_ray.run.location import BUNDLED, as_base

CONFIGS = Path(__file__).parents[2] / "configs"
SHARED = [
    f"base={BUNDLED}",
    f"reward.potential={BUNDLED}",
    f"policy.schedule_from={BUNDLED}",
    "policy.fixed_schedule=null",
    "rollout.steps=10",
    "threads=1",
    "test=false",
    "validation.every=25",
    "validation.limit=256",
    "iterations=100000",
]


@dataclass(frozen=True)
class Way:
    """A way to reinforce: a configuration, and what it changes."""

    config: str
    keys: list[str]


BASE = "base, learned schedule"
WAYS = {
    # Positions, √((1 − t) / t) noise and ratios per atom, as published; groups of a shape of our own.
    "policy gradient": Way("perov5_velocity", ["rollout.groups=32", "rollout.group_size=16"]),
    # As configs/quickstart.yaml, with the learning rate of a longer run (the bundled reinforced model's).
    "reward gradient": Way(
        "quickstart",
        ["learner.lr=3e-4", "objective.flow_matching={crystals: 64, weight: {pos: 1.0, cell: 0.05}}"],
    ),
}


@dataclass(frozen=True)
class Question:
    """What is asked of every model."""

    points: int
    judge: str
    samples: int = 1
    relax: int = 0
    share: int = 1  # of the test crystals, one in so many

    def __str__(self) -> str:
        more = [f"relaxed in {self.relax} steps"] * bool(self.relax) + [f"{self.samples} samples"] * (self.samples > 1)
        more += [f"one crystal in {self.share}"] * (self.share > 1)
        return ", ".join([f"{self.points} points", *more, f"energies by the {self.judge} potential"])


QUESTIONS = [
    *(Question(points, "teacher") for points in (10, 50)),
    Question(10, "second", share=4),
    *(Question(points, "bundled", samples=8, share=8) for points in (10, 50)),
    *(Question(points, "bundled", relax=100, share=8) for points in (10, 50)),
]
CLOSE = 0.05
"""eV/atom."""
FATES = ("match", *(f"other, {where}" for where in ("lower", "as low (0.05 eV/atom)", "higher")), "invalid")
SHOWN = (
    "match_rate",
    "metre",
    "coverage",
    "unique_structures",
    "crmse",
    "relative_energy_mean_capped",
    "relative_energy_median",
    "invalid_share",
    "relaxed_match_rate",
    "relaxed_relative_energy_mean_capped",
    "relaxed_relative_energy_median",
    "relaxed_steps",
)


def reinforce(way: Way, seed: int, crystals: Path, seconds: float, run: Path) -> Path:
    """Return the folder of a run, which is made if there is none."""
    splits = [f"data.{part}={crystals / part}.extxyz" for part in ("train", "val", "test")]
    keys = [*SHARED, *splits, f"seed={seed}", f"run={run}", *way.keys]
    finish(og.Config.load(CONFIGS / f"{way.config}.yaml", keys), limit=seconds)
    return run


@dataclass(frozen=True)
class Subject:
    """What is asked: a model under a schedule."""

    model: str | Path
    schedule: str = BUNDLED

    def __str__(self) -> str:
        return f"{Path(self.model).name}{'' if self.schedule == BUNDLED else f'_{self.schedule}'}"


def evaluate(
    subject: Subject, question: Question, arguments: argparse.Namespace, potentials: Mapping[str, str]
) -> dict[str, Any]:
    """Return the evaluation of a model, which is made if there is none."""
    name = f"{subject}_{str(question).replace(', ', '_').replace(' ', '_')}"
    path = arguments.out / "evaluations" / f"{name}.json"
    if not path.exists():
        limit = max(arguments.limit // question.share, 1)
        found = og.evaluate(
            str(subject.model),
            arguments.crystals / "real_test.extxyz",
            potential=potentials[question.judge],
            steps=question.points,
            schedule=subject.schedule,
            samples=question.samples,
            relax=question.relax,
            limit=limit,
            workers=1,
        )
        write_json(path, found.as_dict())
    evaluation: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return evaluation


def together(evaluations: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the rows of all seeds; intervals are over compositions, so seeds make them no narrower than they are."""
    each = [evaluation["per_structure"] for evaluation in evaluations]
    return {name: [value for rows in each for value in rows[name]] for name in each[0] if all(name in r for r in each)}


def shown(evaluation: dict[str, Any], key: str) -> str:
    """Return a figure with its interval, if it has one."""
    between = evaluation["intervals"].get(key)
    limits = f" [{between['low']:.3f}, {between['high']:.3f}]" if between and between["low"] is not None else ""
    return f"{evaluation['metrics'][key]:.3f}{limits}"


def rows_of(question: Question, found: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    """Return the lines of a question: every seed's figures and what became of the crystals, or bins with changes."""
    if question.samples > 1 or question.relax:
        keys = [key for key in SHOWN if found[BASE][0]["metrics"].get(key) is not None]
        lines = [f"| | seed | {' | '.join(keys)} |", "|---|" + "---|" * (len(keys) + 1)]
        lines += [
            f"| {way} | {seed} | {' | '.join(shown(one, key) for key in keys)} |"
            for way, of in found.items()
            for seed, one in enumerate(of)
        ]
        if question.relax:
            lines += ["", f"| | {' | '.join(FATES)} |", f"|{'---|' * (len(FATES) + 1)}"]
            shares = {way: fates(together(of)) for way, of in found.items()}
            lines += [
                f"| {way} | {' | '.join(f'{each[fate]:.3f}' for fate in FATES)} |" for way, each in shares.items()
            ]
        return lines
    lines = []
    for way, of in found.items():
        lines += ["", f"{way}:", "", *by_size.table(together(of)), ""]
        if way != BASE:
            before, after = ({"per_structure": together(each)} for each in (found[BASE] * len(of), of))
            lines += [f"- from {BASE}, paired: {change}" for change in changes(before, after)]
    return lines


def fates(each: Mapping[str, list[Any]]) -> dict[str, float]:
    """Return the shares of relaxed crystals that match their reference, or why not: see `FATES`."""
    counts = dict.fromkeys(FATES, 0)
    for match, energy in zip(each["relaxed_rmse"], each["relaxed_relative_energy"], strict=True):
        if match is not None:
            counts[FATES[0]] += 1
        elif energy is None:
            counts[FATES[4]] += 1
        else:
            counts[FATES[1 if energy < -CLOSE else 2 if energy <= CLOSE else 3]] += 1
    return {fate: count / len(each["relaxed_rmse"]) for fate, count in counts.items()}


def main() -> None:
    """Train and evaluate what is missing, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crystals", type=Path, required=True)
    parser.add_argument("--teacher", required=True, help="potential that the bundled one was distilled from")
    parser.add_argument("--second", required=True, help="potential that has nothing to do with the rewards")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--hours", type=float, default=1.0, help="processor time of each run")
    parser.add_argument("--limit", type=int, default=935, help="test crystals, spread over all")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    potentials = {"teacher": arguments.teacher, "second": arguments.second, "bundled": BUNDLED}
    base = as_base(BUNDLED)
    subjects = {BASE: [Subject(base)], "base, schedule by hand": [Subject(base, OWN)]}
    for name in arguments.ways:
        folders = {seed: arguments.out / f"{name.replace(' ', '_')}_{seed}" for seed in arguments.seeds}
        subjects[name] = [
            Subject(reinforce(WAYS[name], seed, arguments.crystals, 3600 * arguments.hours, folder))
            for seed, folder in folders.items()
        ]
    lines: list[str] = []
    for question in QUESTIONS:
        found = {name: [evaluate(one, question, arguments, potentials) for one in of] for name, of in subjects.items()}
        lines += ["", f"## {question}", "", *rows_of(question, found)]
        write_text(arguments.out / "tables.md", "\n".join(lines).strip() + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
