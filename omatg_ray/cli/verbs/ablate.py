"""`omatg-ray ablate`."""

from __future__ import annotations

import argparse

from omatg_ray.cli.arguments import location

SUMMARY = "compare learned with hand-made schedules"
DESCRIPTION = """\
Compare learned schedules with none and with hand-made ones, at several numbers of grid points. Hand-made ones (linear,
quadratic, cosine, constant, unequal steps) are tuned on validation crystals at each number; results are on the test
crystals.

  omatg-ray ablate configs/ablation.yaml
  omatg-ray ablate configs/ablation.yaml steps=[5,10,20] limit=100 run=runs/quick

`omatg-ray config ablation` lists the keys. Results in the folder are not computed again: repeat an
interrupted call to continue it. The folder gets report.html, ablation.json, and for each set a folder with all cases.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("config", type=location, metavar="CONFIG", help="a YAML file")
    parser.add_argument("words", nargs="*", metavar="key=value", help="overrides")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    from omatg_ray.commands.ablate_settings import AblationSettings

    settings = AblationSettings.load(arguments.config, arguments.words)
    from omatg_ray.commands.ablate import ablate
    from omatg_ray.report.ablation import ablation_table

    sets, report = ablate(settings, not arguments.quiet)
    for name, found in sets.items():
        print(f"\n{name}\n{ablation_table(found['rows'])}")
    print(f"\nreport: {report}")
