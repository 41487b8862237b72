"""`omatg-ray check`."""

from __future__ import annotations

import argparse
from pathlib import Path

from omatg_ray.cli.arguments import local_path, number, on_error_argument, path_or_word
from omatg_ray.cli.output import check_output
from omatg_ray.cli.sampling import workers_argument
from omatg_ray.errors import ConfigError, DataError

SUMMARY = "look at a file of crystals before it is used"
DESCRIPTION = """\
Read every crystal of a file, folder or archive and show what is in it, before hours are spent: counts, elements, sizes,
duplicates, how pretrain and train would split it, which crystals cannot be used and why, which files of a folder are
not read, all elements that a model or a potential does not know, and what else lies outside of their training data.

  omatg-ray check my_crystals.zip
  omatg-ray check my_crystals.csv --model runs/base --potential POTENTIAL --json found.json
  omatg-ray check collected/ --potential bundled --on-error skip --drop-unknown

Exit code 0 if the file can be used as it is, or with the options given here: --on-error skip stands for
data.on_error=skip of pretrain and train, --drop-unknown for data.drop_unknown=true. Exit code 1 if something in it
cannot be used. Duplicates, cells of other sizes than a model has seen, compositions outside of the training data, and
too few compositions to split do not count.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument(
        "data", type=path_or_word, metavar="FILE", help="crystals, in any format that pretrain reads; or bundled"
    )
    parser.add_argument("--model", type=path_or_word, metavar="MODEL", help="a model that has to know the elements")
    parser.add_argument(
        "--potential", type=path_or_word, metavar="NAME", help="a MatGL potential that has to know them, or bundled"
    )
    on_error_argument(parser, "crystals")
    parser.add_argument(
        "--drop-unknown", action="store_true", help="leave out crystals with elements that these do not know"
    )
    parser.add_argument(
        "--comparisons",
        type=number(int, 0),
        metavar="N",
        help="most comparisons of two crystals in search of duplicates; 0: none (default 20,000)",
    )
    workers_argument(parser)
    parser.add_argument("--json", type=local_path, metavar="FILE", help="write everything that was found here")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    json_path = check_output(arguments.json, ".json")
    if arguments.drop_unknown and arguments.model is None and arguments.potential is None:
        raise ConfigError("--drop-unknown: add --model or --potential, which say which elements are known")
    from omatg_ray.run.job_paths import find_potential
    from omatg_ray.train.early import require_crystals, require_models, require_potential
    from omatg_ray.train.job import find_input

    data = find_input(arguments.data, "FILE")
    model = None if arguments.model is None else find_input(arguments.model, "--model")
    potential = find_potential(arguments.potential)
    require_crystals(data)
    require_models([] if model is None else [model])
    require_potential(potential)
    from omatg_ray.commands.check import COMPARISONS, CheckOptions, check, table
    from omatg_ray.run.atomic import write_json

    options = CheckOptions(
        data=data,
        model=model,
        potential=potential,
        on_error=arguments.on_error,
        drop_unknown=arguments.drop_unknown,
        comparisons=COMPARISONS if arguments.comparisons is None else arguments.comparisons,
        workers=arguments.workers,
    )
    found = check(options, not arguments.quiet)
    if json_path is not None:
        write_json(Path(json_path), found.as_dict())
    print(table(found))
    if found.problems:
        raise DataError(f"{data} cannot be used as it is; the last lines say what to do")
