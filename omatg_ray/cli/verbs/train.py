"""`omatg-ray train`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omatg_ray.assets import quickstart
from omatg_ray.cli.arguments import key_of, run_arguments, split_words
from omatg_ray.cli.runs import load_config, resumes, start_or_resume
from omatg_ray.run.advice import command
from omatg_ray.run.text import counted

if TYPE_CHECKING:
    from omatg_ray.config import Config

SUMMARY = "reinforce a model"
DESCRIPTION = """\
Reinforce a base model, in one of two ways, or both. By policy gradients: sample groups of perturbed trajectories,
reward low energies, and move the velocity field towards what did better within its group (OMatG-IRL, arXiv 2602.00424).
By reward gradients, as the run without a config does: carry forces and stress back through the last steps of a
trajectory (objective.reward_gradient; docs/gradients.md).

  omatg-ray train
  omatg-ray train configs/perov5_gradient.yaml base=runs/base reward.potential=POTENTIAL run=runs/better
  omatg-ray train configs/perov5_gradient.yaml base=runs/base reward.potential=POTENTIAL --dry-run
  omatg-ray train configs/perov5_gradient.yaml base=runs/base reward.potential=POTENTIAL ray.rollout.workers=3
  omatg-ray train --resume runs/better iterations=160

If no config, base, potential or data is named, it reinforces the bundled base (configs/quickstart.yaml), in a new run
folder each time. Without data keys it uses the splits saved by the base's run. With ray.rollout.workers=N Ray actors do
the work, on the cluster at RAY_ADDRESS or on this machine (`omatg-ray config ray` lists all keys); the results are the
same. Ctrl-C stops after the current iteration with a checkpoint to resume from. The run ends with a before/after table
on the test split and report.html.

Progress shows, for each iteration: E, the median energy of the rollouts (eV/atom; compositions change every iteration,
so follow the validations); the share of invalid ones; with several epochs, the share of clipped ratios; if the base is
evaluated, the KL to it (positions, lattice); and s, the seconds of rollout + reward + learning.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    run_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    start_or_resume(arguments)
    default = arguments.resume is None and _asks_for_the_default(arguments.words)
    if default:
        arguments.words = [str(quickstart()), *arguments.words]
    config = load_config(arguments)
    if default:
        config = _default_run(config, free="run" not in map(key_of, arguments.words))
    from omatg_ray.train.early import refuse_train

    refuse_train(config, arguments.resume is None and not arguments.dry_run)
    if arguments.dry_run:
        from omatg_ray.train.build import build_run
        from omatg_ray.train.estimate import describe
        from omatg_ray.train.precision import resolve_precision

        parts = build_run(config, not arguments.quiet)
        config = resolve_precision(config, parts)
        print(describe(config, parts))
        return
    from omatg_ray.commands.evaluate import table
    from omatg_ray.commands.train import train
    from omatg_ray.evaluate.change import changes
    from omatg_ray.report.tables import rewards_table

    result = train(config, resumes(arguments, config), not arguments.quiet)
    if result.rows:
        n, steps = result.rows[0]["metrics"]["n"], config.validated_steps
        print(f"\ntest split, {counted(n, 'crystal')}, {steps} grid points, energies in eV/atom\n{table(result.rows)}")
        if own := rewards_table(result.rows):
            print(f"\n{own}")
    else:
        print("\nno test (test.limit is 0)")
    if result.rows and result.iteration:
        differences = "\n".join(f"  {change}" for change in changes(*result.rows[:2]))
        print(f"\nreinforced less base, with 95 % intervals (paired bootstrap over compositions)\n{differences}")
    print(f"\nbest model: {result.model}\nreport: {result.report}")
    from omatg_ray.cli.next_steps import next_steps

    improved = result.iteration > 0
    print(f"\n{next_steps(config, result.rows, result.example, result.generates_species, improved=improved)}")


def _asks_for_the_default(words: Sequence[str]) -> bool:
    """Decide whether the command names no config file, base, potential or crystals, all of which the default brings."""
    files, overrides = split_words(words)
    if files:
        return False
    brought = {"base", "data", "reward", "reward.potential"}
    return not any(key in brought or key.startswith("data.") for key in map(key_of, overrides))


def _default_run(config: Config, free: bool) -> Config:
    """Print what is run and where, and return it.

    Unless a run folder is named, each call gets a folder of its own, so that the command can be repeated.
    """
    from omatg_ray.run.state import free_run

    run = free_run(config.run) if free else config.run
    file, here = quickstart(), Path.cwd()
    text = f"without a config this is {file.relative_to(here) if file.is_relative_to(here) else file}, in {run}"
    if run != config.run:
        text += f" ({config.run} holds a run already; to resume it: {command('train', '--resume', config.run)})"
    print(f"omatg-ray: {text}", file=sys.stderr)
    return config.model_copy(update={"run": run})
