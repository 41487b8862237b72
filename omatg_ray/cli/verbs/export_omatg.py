"""`omatg-ray export-omatg`."""

from __future__ import annotations

import argparse

from omatg_ray.cli.arguments import local_path, number, path_or_word
from omatg_ray.cli.output import print_notes

SUMMARY = "turn a model into files of OMatG"
DESCRIPTION = """\
Write a model as checkpoint.ckpt and train.yaml for `omg predict` of OMatG; the reverse of import-omatg. Refused, with
the reason, if one network and OMatG's configuration cannot express the sampler.

  omatg-ray export-omatg runs/better --out for_omatg
  omg predict --config=for_omatg/train.yaml --ckpt_path=for_omatg/checkpoint.ckpt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument(
        "model",
        type=path_or_word,
        metavar="MODEL",
        help="model folder, run folder (its best checkpoint), or bundled-prototypes",
    )
    parser.add_argument("--out", type=local_path, required=True, metavar="DIR", help="new folder")
    parser.add_argument(
        "--steps", type=number(int, 2), metavar="N", help="grid points (default: those it was imported with, else 50)"
    )
    parser.add_argument(
        "--data",
        type=path_or_word,
        metavar="FILE",
        help="LMDB or Parquet file of compositions to predict (default: OMatG's own)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    from omatg_ray.run.job_paths import path_to_keep
    from omatg_ray.train.early import require_models
    from omatg_ray.train.job import find_input

    model = find_input(arguments.model, "MODEL")
    require_models([model])
    from omatg_ray.commands.export_omatg import export_model
    from omatg_ray.omatg.hub import CHECKPOINT_FILE, CONFIG_FILE

    out = path_to_keep(arguments.out)
    print_notes(export_model(model, out, arguments.steps, arguments.data))
    print(f"checkpoint: {out / CHECKPOINT_FILE}\nconfiguration: {out / CONFIG_FILE}")
