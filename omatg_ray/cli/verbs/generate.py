"""`omatg-ray generate`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from omatg_ray.assets import set_with
from omatg_ray.cli.arguments import formula_arguments, number, path_or_word
from omatg_ray.cli.output import crystals_arguments, crystals_output
from omatg_ray.cli.ranked import RELAX_STEPS, ranking_arguments, write_ranked
from omatg_ray.cli.sampling import sampling_arguments, sampling_values
from omatg_ray.errors import ConfigError
from omatg_ray.run.location import NO_POTENTIAL

SUMMARY = "generate crystals for formulas"
DESCRIPTION = """\
Generate crystals, drop invalid ones and duplicates, and rank them by energy if a potential is given.

  omatg-ray generate runs/better --formula TiO2 --z 2,4 -n 64 --potential POTENTIAL --relax 100 --out tio2.extxyz
  omatg-ray generate runs/better --formulas list.txt -n 16 --out crystals/ --standardize conventional
  omatg-ray generate bundled --formula NaCl -n 8                 # relaxed and ranked by the bundled potential
  omatg-ray generate models/mp20_de_novo --atoms 4 8 -n 16

Generated crystals lie near a minimum of the energy, not in it: --relax relaxes cells and positions before duplicates,
ranks and space groups are found. A base model of your own anneals only with --schedule or slopes; bundled/base has a
schedule made by hand, and a reinforced one anneals as it was trained.

The table shows formula, formula units per cell, rank, energy, energy above the best of the composition, space group
(to --symprec, and to twice that where it is another: "Cm, Fm-3m to 0.2 A"), number of identical crystals, and whether
model and potential were trained on such compositions (yes), or what of it they saw little or nothing of: elements,
pairs of elements, their number, atoms per cell. A rank of such crystals is a guess; --second-potential tells whether
another potential makes the same one. Marks:

  !  more than 3 eV/atom above the best: atoms overlap
  ?  both crystals of every pair of one composition that the two potentials order differently, if their energy
     difference changes by more than 0.1 eV/atom between the potentials
  ?  a crystal whose energy fell in the relaxation by the first potential and rose by more than 0.1 eV/atom by the
     second
  ~  its relaxation has not converged: more steps (--relax) may change energy, space group and duplicates

The closest distances in the best crystal of each composition follow, against the sums of covalent radii.
Models that generate species take numbers of atoms in place of formulas.

The name of --out chooses the format: .extxyz, .cif, .json, a folder of CIF files (ends in /), with --format vasp of
POSCAR files. x.vasp or POSCAR holds one crystal: the best of one composition. --standardize conventional (or primitive)
writes spglib's standard cells, and CIF files with their space group; energies and bonds stay those of the crystals as
they were generated or relaxed.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    sampling_arguments(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    formula_arguments(what)
    what.add_argument(
        "--atoms",
        nargs="+",
        type=number(int, 1),
        metavar="N",
        help="atoms per cell, for a model that generates species",
    )
    parser.add_argument("--z", default="1", help="formula units per cell, e.g. 2,4 or 1-4 (default 1)")
    parser.add_argument("-n", type=number(int, 1), default=1, help="crystals per formula and z, or N (default 1)")
    parser.add_argument(
        "--potential",
        type=path_or_word,
        metavar="NAME",
        help="MatGL potential to rank by, bundled, or none (default: that of the set of a bundled model, else none)",
    )
    ranking_arguments(parser)
    parser.add_argument(
        "--relax",
        type=number(int, 0),
        metavar="N",
        help="relax every valid crystal in at most N steps with the potential, in this process; 0: none (default: "
        f"{RELAX_STEPS} if the potential is taken from the set of a bundled model, else 0)",
    )
    crystals_arguments(parser, "generated.extxyz", "where to write")


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    out = crystals_output(arguments)
    assert out is not None
    own = None if arguments.potential else set_with("potential", arguments.model)
    if own is not None:
        arguments.potential = own
    elif arguments.potential == NO_POTENTIAL:
        arguments.potential = None
    relax = (RELAX_STEPS if own else 0) if arguments.relax is None else arguments.relax
    sampling = sampling_values(arguments)
    from omatg_ray.run.job_paths import find_file, find_potential
    from omatg_ray.train.early import require_models, require_potential

    require_models([sampling["model"]])
    second = find_potential(arguments.second_potential)
    for potential in (sampling["potential"], second):
        require_potential(potential)
    from omatg_ray.crystal.formula import cell_species, parse_z, read_formulas

    formulas = (
        arguments.formula if arguments.formulas is None else read_formulas(find_file(arguments.formulas, "--formulas"))
    )
    units = tuple(parse_z(arguments.z))
    for formula in formulas or ():
        cell_species(formula, max(units))
    if out.holds_one:
        _require_one(arguments, out.path, formulas or (), len(units))
    from omatg_ray.commands.generate import GenerateOptions, generate

    options = GenerateOptions(
        formulas=tuple(formulas or ()),
        z=units,
        atoms=tuple(arguments.atoms or ()),
        count=arguments.n,
        relax=relax,
        second_potential=second,
        symprec=arguments.symprec,
        **sampling,
    )
    result = generate(options, not arguments.quiet)
    write_ranked(result, out, options.workers, options.timeout, not arguments.quiet)


def _require_one(arguments: argparse.Namespace, path: str, formulas: Sequence[str], units: int) -> None:
    """Refuse a file of one crystal for crystals that are not ranked with each other.

    Raises:
        ConfigError: Says what to write instead.
    """
    from omatg_ray.crystal.formula import reduced_composition

    several, compositions = None, {reduced_composition(formula): formula for formula in reversed(formulas)}
    crystals = arguments.n * (len(formulas) * units or len(arguments.atoms or ()))
    if len(compositions) > 1:
        several = f"{len(compositions)} compositions ({', '.join(reversed(compositions.values()))})"
    elif crystals > 1 and arguments.atoms:
        several = f"{crystals} crystals of compositions that the model chooses"
    elif crystals > 1 and arguments.potential is None:
        several = f"{crystals} crystals without --potential to rank them"
    if several is not None:
        raise ConfigError(
            f"cannot write {path}: it holds one crystal, and {several} leave open which; --out folder/ --format vasp "
            "writes all"
        )
