"""`omatg-ray tune`."""

from __future__ import annotations

import argparse

from omatg_ray.cli.arguments import location, split_words
from omatg_ray.errors import ConfigError
from omatg_ray.run.advice import command
from omatg_ray.run.location import as_location

SUMMARY = "find good keys for train"
DESCRIPTION = """\
Reinforce a model many times, each time with other values of a few keys, and keep the best: Ray Tune on the cluster
at RAY_ADDRESS or on this machine. The YAML file defines the space, over any config keys.

  omatg-ray tune configs/sweep_velocity.yaml
  omatg-ray tune configs/sweep_velocity.yaml trials=32 concurrent=2 overrides.iterations=40 run=runs/sweep
  omatg-ray tune --resume runs/sweep
  omatg-ray train runs/sweep/best.yaml

Every trial is a run folder in trials/; a line is printed for each of its validations. The folder gets trials.json,
best.yaml (the config of the best trial, for `train`) and report.html. Ctrl-C saves and stops; --resume resumes it, also
after a kill: finished trials stay, others resume from their last validation. All keys: `omatg-ray config sweep`.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("words", nargs="*", metavar="CONFIG | key=value", help="a YAML file of a sweep, then overrides")
    parser.add_argument("--resume", type=location, metavar="RUN", help="resume the sweep in this folder")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    from omatg_ray.tune.settings import SweepSettings, folder_of_sweep, refuse_taken_by_sweep

    files, overrides = split_words(arguments.words)
    if arguments.resume is not None:
        if arguments.words:
            raise ConfigError(f"--resume uses the settings of the sweep; leave out {arguments.words[0]}")
        folder_of_sweep(arguments.resume)
        from omatg_ray.commands.tune import resume_tune

        result = resume_tune(arguments.resume, not arguments.quiet)
    elif len(files) != 1:
        raise ConfigError("give one file that describes a sweep, such as configs/sweep_velocity.yaml")
    else:
        settings = SweepSettings.load(as_location(files[0]), overrides)
        folder = refuse_taken_by_sweep(settings)
        from omatg_ray.train.early import refuse_train
        from omatg_ray.train.job import with_job_paths

        refuse_train(with_job_paths(settings.with_values(next(settings.corners()), folder)), new=False)
        from omatg_ray.commands.tune import tune

        result = tune(settings, not arguments.quiet)
    from omatg_ray.report.sweep import trials_table, without_gain

    folder = result.best.parent
    print(f"\n{trials_table(result.sweep, folder)}")
    nothing = without_gain(result.sweep, folder)
    if nothing is not None:
        print(f"\n{nothing}")
    print(f"\nbest config: {result.best}\nreport: {result.report}")
    if result.front:
        print(f"all of the Pareto front: {result.front[0].parent}/*.yaml")
    print(f"\nnext\n  {command('train', result.best, 'run=runs/tuned')}")
