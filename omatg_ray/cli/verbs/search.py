"""`omatg-ray search`."""

from __future__ import annotations

import argparse

from omatg_ray.cli.arguments import formula_arguments, number, path_or_word
from omatg_ray.cli.output import CrystalsOutput, check_folder
from omatg_ray.cli.ranked import RELAX_STEPS, ranking_arguments, write_ranked
from omatg_ray.cli.sampling import sampling_arguments, sampling_values
from omatg_ray.errors import ConfigError

SUMMARY = "search the ground state of formulas"
DESCRIPTION = """\
Search the crystal of lowest energy of a formula, without labels: sample, relax, keep every distinct crystal, learn from
the lowest ones, and go on until nothing better comes or the budget ends.

  omatg-ray search bundled --formula TiO2 --z 1,2
  omatg-ray search bundled --formula LiFePO4 --z 4 --potential POTENTIAL --minutes 30 --to runs/lifepo4
  omatg-ray search bundled --formulas list.txt --evaluations 100000
  omatg-ray search bundled --chemical-system Ca-Ti-O --stoichiometry 1:1:3 3:2:7 --z 1,2
  omatg-ray search bundled --formula TiO2 --method sample        # the model as it is, to compare with

--method reinforce matches the flow of the network that acts first, where the polymorph is decided, to the lowest
crystals found of each cell. Of four samples, one is of the model as it was given, one restarts from a low crystal
that is noised, two are of what has learned. Formulas share one sampler. With --second-potential it learns from the
energies of that one, so that a hole of the first does not lead it.

--ray rollout.workers=1,reward.workers=7 spreads samples over actors; any number of them finds the same.

--to gets found.extxyz and a folder of CIF files (distinct crystals, best first; copies: how often each was found),
report.html (best energy against evaluations; the best drawn), rounds.csv, and sampler/, a model to generate more with.
Its state is kept after every round: --resume goes on. Ctrl-C ends after the round, and writes.

The last lines say how far to trust it: how often the lowest was found, how many distinct crystals were surely not seen
(Chao's estimate from captures and recaptures), and how likely the next sample is a new one. A search that found its
best once has not converged. The marks of the table are those of `omatg-ray generate --help`.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    sampling_arguments(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    formula_arguments(what)
    what.add_argument(
        "--chemical-system",
        metavar="SYSTEM",
        help="formulas that hold all of these elements, e.g. Li-Fe-P-O: those of --stoichiometry, else all of up to 12 "
        "atoms that are neutral with common oxidation states",
    )
    parser.add_argument(
        "--stoichiometry",
        nargs="+",
        metavar="RATIO",
        help="atoms of each element of --chemical-system, in their order, e.g. 1:1:1:4 2:1:2:7",
    )
    parser.add_argument(
        "--z", default="1", help="formula units per cell, e.g. 2,4 or 1-4; samples take turns (default 1)"
    )
    parser.add_argument(
        "--method",
        choices=["reinforce", "sample", "random"],
        default="reinforce",
        help="reinforce: the sampler learns from what was found (default); sample: it stays as it is; random: crystals "
        "of random space groups (AIRSS), MODEL is not asked",
    )
    parser.add_argument(
        "--potential",
        type=path_or_word,
        default="bundled",
        metavar="NAME",
        help="MatGL potential to relax and rank by: its name, or a folder that holds it (default bundled)",
    )
    ranking_arguments(parser)
    parser.add_argument(
        "--relax",
        type=number(int, 0),
        default=RELAX_STEPS,
        metavar="N",
        help=f"most relaxation steps of every sample (default {RELAX_STEPS})",
    )
    parser.add_argument(
        "--batch",
        type=number(int, 1),
        default=16,
        metavar="N",
        help="samples of each formula in a round, after which the sampler learns (default 16)",
    )
    parser.add_argument(
        "--minutes",
        type=number(float, 0, above=True),
        metavar="M",
        help="begin no round after that, counted from when actors are ready, anew by --resume (default: no limit)",
    )
    parser.add_argument(
        "--evaluations",
        type=number(int, 1),
        metavar="N",
        help="most evaluations of the energy, also those before a --resume; one with gradients counts three (default: "
        "no limit)",
    )
    parser.add_argument(
        "--patience",
        type=number(int, 1),
        default=128,
        metavar="N",
        help="leave a formula after so many samples without a better one (default 128)",
    )
    parser.add_argument(
        "--within",
        type=number(float, 0),
        default=0.2,
        metavar="E",
        help="list crystals up to E eV/atom above the best of their composition (default 0.2)",
    )
    parser.add_argument(
        "--phases",
        type=path_or_word,
        metavar="FILE",
        help="crystals of competing phases, one of each element among them, relaxed like the samples. What is found "
        "gets above_hull: eV/atom above the hull of these and of the best of the other formulas",
    )
    parser.add_argument(
        "--to", type=path_or_word, default="search", metavar="DIR", help="folder to write (default search)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the search in --to")


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    if arguments.stoichiometry and not arguments.chemical_system:
        raise ConfigError("--stoichiometry: name the elements with --chemical-system, e.g. Li-Fe-P-O")
    folder = check_folder(arguments.to)
    assert folder is not None
    if not arguments.resume and folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"--to {folder}: there are files in it; add --resume to go on, or name another folder")
    sampling = sampling_values(arguments)
    from omatg_ray.run.job_paths import find_file, find_potential
    from omatg_ray.train.early import require_models, require_potential
    from omatg_ray.train.job import find_input

    require_models([sampling["model"]])
    second = find_potential(arguments.second_potential)
    for potential in (sampling["potential"], second):
        require_potential(potential)
    from omatg_ray.crystal.chemical_system import system_formulas
    from omatg_ray.crystal.formula import cell_species, parse_z, read_formulas

    if arguments.chemical_system:
        named = system_formulas(arguments.chemical_system, arguments.stoichiometry or ())
        print(f"formulas of {arguments.chemical_system}: {', '.join(named)}")
    else:
        named = arguments.formula or read_formulas(find_file(arguments.formulas, "--formulas"))
    units = tuple(parse_z(arguments.z))
    for formula in named:
        cell_species(formula, max(units))
    from omatg_ray.commands.search import SearchOptions, run_search
    from omatg_ray.report.search import write_search

    names = ("method", "relax", "batch", "minutes", "evaluations", "patience", "within", "symprec", "resume")
    options = SearchOptions(
        formulas=tuple(named),
        z=units,
        second_potential=second,
        phases=None if arguments.phases is None else find_input(arguments.phases, "--phases"),
        folder=folder,
        **{name: getattr(arguments, name) for name in names},
        **sampling,
    )
    done = run_search(options, not arguments.quiet)
    found = done.found()
    out = CrystalsOutput(str(folder / "found.extxyz"), None, None, holds_one=False)
    write_ranked(found.ranked, out, options.workers, options.timeout, not arguments.quiet)
    report = write_search(
        folder, done.courses, found.ranked.crystals, found.ranked.properties, found.convergence, found.holes
    )
    for formula, course in done.courses.items():
        nothing = (
            f"no valid crystal in {course.samples} samples; more samples, more steps or another model may find one"
        )
        print(f"{formula}: {found.convergence.get(formula, nothing)}")
    for row in found.ranked.properties:
        if row["rank"] == 1 and "above_hull" in row:
            print(f"{row['formula']}: {row['above_hull']:+.4f} eV/atom above the hull of the phases")
    for formula in found.holes:
        print(
            f"{formula}: the lowest energy lies far below all others, which a hole of the potential would do, too; "
            "do not trust it before another potential agrees (--second-potential)"
        )
    print(f"report: {report}")
