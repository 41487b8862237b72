"""`omatg-ray relax`."""

from __future__ import annotations

import argparse

from omatg_ray.cli.arguments import number, on_error_argument, path_or_word
from omatg_ray.cli.output import crystals_arguments, crystals_output
from omatg_ray.cli.ranked import ranking_arguments, write_ranked
from omatg_ray.cli.sampling import comparison_arguments
from omatg_ray.errors import ConfigError

SUMMARY = "relax crystals of your own and rank them"
DESCRIPTION = """\
Relax the crystals of a file under a potential, drop invalid ones and duplicates, and rank the others by energy, as
generate does with crystals that it makes.

  omatg-ray relax mine.cif
  omatg-ray relax generated.extxyz --potential POTENTIAL --steps 300 --out relaxed.extxyz
  omatg-ray relax candidates/ --steps 0 --out candidates.json   # ranks and duplicates of crystals as they are

FILE is in any format that pretrain reads; cells are relaxed as they are, without reduction. The table and its marks are
those of `omatg-ray generate --help`; the last column is the id of the crystal: its material_id, the name of its CIF
file, or its number in the file (of a folder: name of the file and number). Of equal crystals (x2) the lowest is kept.
With an .extxyz file, ASE's get_potential_energy() returns the energies.

A potential may break a crystal that it does not know. --second-potential shows the fall of the energy (drop) by both,
and marks (?) where they disagree. Without it, a warning names crystals that fell by more than 0.3 eV/atom, or have a
closest bond that changed by more than 15 %.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("file", type=path_or_word, metavar="FILE", help="crystals: file, folder or URL")
    on_error_argument(parser, "crystals")
    parser.add_argument(
        "--potential",
        type=path_or_word,
        default="bundled",
        metavar="NAME",
        help="MatGL potential: its name, or a folder that holds it (default bundled)",
    )
    ranking_arguments(parser)
    parser.add_argument(
        "--steps",
        type=number(int, 0),
        default=100,
        metavar="N",
        help="most relaxation steps of each crystal; 0 ranks them as they are (default 100)",
    )
    crystals_arguments(parser, "relaxed.extxyz", "where to write")
    comparison_arguments(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    out = crystals_output(arguments)
    assert out is not None
    from omatg_ray.run.job_paths import find_potential
    from omatg_ray.train.early import require_crystals, require_potential
    from omatg_ray.train.job import find_input

    file = find_input(arguments.file, "FILE")
    require_crystals(file)
    first, second = find_potential(arguments.potential), find_potential(arguments.second_potential)
    for potential in (first, second):
        require_potential(potential)
    from omatg_ray.commands.rank import rank
    from omatg_ray.crystal.given import as_dataset

    dataset = as_dataset(file, not arguments.quiet, arguments.on_error)
    if out.holds_one and (several := len(set(dataset.compositions))) > 1:
        raise ConfigError(
            f"cannot write {out.path}: it holds one crystal, and those of {file} have {several} compositions; --out "
            "folder/ --format vasp writes all"
        )
    found = rank(
        dataset,
        first,
        relax=arguments.steps,
        second_potential=second,
        symprec=arguments.symprec,
        workers=arguments.workers,
        timeout=arguments.timeout,
        device=arguments.device,
        progress=not arguments.quiet,
    )
    write_ranked(found, out, arguments.workers, arguments.timeout, not arguments.quiet)
