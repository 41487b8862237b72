"""`omatg-ray import-omatg`."""

from __future__ import annotations

import argparse

from omatg_ray.cli.arguments import local_path, path_or_word
from omatg_ray.cli.output import print_notes

SUMMARY = "turn a model of OMatG into a model folder"
DESCRIPTION = """\
Turn a model of OMatG into a model folder: a Lightning checkpoint and the configuration it was trained with. Says what
could not be converted, and refuses a model that would generate other structures. A model reinforced by OMatG-IRL needs
its own configuration and, with --base, the base model it started from.

  omatg-ray import-omatg checkpoint.ckpt train.yaml --out models/mp20
  omatg-ray import-omatg rl.ckpt rl_config.yaml --base models/mp20 --out models/mp20_better

Published models need no import: name them as base=OMatG/MP-20-CSP/Trig-SDE-Gamma, or as MODEL of other verbs.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("checkpoint", type=local_path, metavar="CHECKPOINT", help="Lightning checkpoint (.ckpt)")
    parser.add_argument(
        "config", type=local_path, metavar="CONFIG", help="the configuration it was trained with (.yaml)"
    )
    parser.add_argument("--out", type=local_path, required=True, metavar="DIR", help="new model folder")
    parser.add_argument(
        "--base", type=path_or_word, metavar="MODEL", help="base model of a reinforced one, imported before"
    )
    parser.add_argument(
        "--data",
        type=local_path,
        metavar="FILE",
        help="training crystals, which give elements and cell sizes (default: those CONFIG names, if they exist)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    from omatg_ray.commands.import_omatg import import_model
    from omatg_ray.run.job_paths import find_file, path_to_keep
    from omatg_ray.train.job import find_input

    out = path_to_keep(arguments.out)
    notes = import_model(
        find_file(arguments.checkpoint, "CHECKPOINT"),
        find_file(arguments.config, "CONFIG"),
        out,
        None if arguments.base is None else find_input(arguments.base, "--base"),
        None if arguments.data is None else find_file(arguments.data, "--data"),
        not arguments.quiet,
    )
    print_notes(notes)
    print(f"model: {out}")
