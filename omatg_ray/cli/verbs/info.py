"""`omatg-ray info`."""

from __future__ import annotations

import argparse

from omatg_ray.cli.arguments import path_or_word

SUMMARY = "show what is bundled, or what a model is"
DESCRIPTION = """\
Show the bundled assets in a few lines. With the name of one (crystals, potential, base, schedule or reinforced): its
whole card, with how it was made, what it is good for, and its limits; those of another set come after its name, such
as bundled-prototypes/base. With the folder of a model, a run or a schedule, or the name of a set: what this model or
schedule is made of. `base` is the card, ./base a folder.

  omatg-ray info
  omatg-ray info potential
  omatg-ray info runs/better
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument(
        "names",
        nargs="*",
        type=path_or_word,
        metavar="NAME",
        help="crystals, potential, base, schedule, reinforced; or bundled, or a model or run folder, e.g. ./base",
    )


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    from omatg_ray.commands.info import describe, overview

    print("\n\n".join(map(describe, arguments.names)) if arguments.names else overview())
