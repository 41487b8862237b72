"""`omatg-ray pretrain`."""

from __future__ import annotations

import argparse

from omatg_ray.cli.arguments import run_arguments
from omatg_ray.cli.runs import load_config, resumes, start_or_resume
from omatg_ray.run.location import join_location

SUMMARY = "train a base model on crystals"
DESCRIPTION = """\
Train a base model on crystals: a CSV file with a cif column, CIF, POSCAR, extxyz, JSON, a folder of these, ...
(docs/data.md). Cells are Niggli-reduced and the data split by composition; the splits are kept in the run folder as
data/*.extxyz. Unusable crystals are refused and listed; data.on_error=skip continues without them.
`omatg-ray check FILE` shows them all beforehand.

  omatg-ray pretrain configs/perov5_base.yaml data.file=perov_5.csv run=runs/base
  omatg-ray pretrain --resume runs/base

With ray.pretrain.workers=N it runs data-parallel on Ray Train.

The run folder gets checkpoints/best (lowest validation loss), metrics.jsonl, TensorBoard files and report.html.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    run_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    start_or_resume(arguments)
    config = load_config(arguments)
    from omatg_ray.train.early import refuse_pretrain

    refuse_pretrain(config, arguments.resume is None)
    if arguments.dry_run:
        from omatg_ray.commands.pretrain import known_to_potential
        from omatg_ray.train.device import choose_device, set_threads
        from omatg_ray.train.estimate import describe_pretraining
        from omatg_ray.train.splits import load_splits

        set_threads(config.threads)
        split = load_splits(config.data, not arguments.quiet, known_to_potential(config))
        print(describe_pretraining(config, split, choose_device(config.device)))
        return
    from omatg_ray.commands.pretrain import pretrain

    best = pretrain(config, resumes(arguments, config), not arguments.quiet)
    print(f"best model: {best}\nreport: {join_location(config.run, 'report.html')}")
