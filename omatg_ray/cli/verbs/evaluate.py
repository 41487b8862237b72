"""`omatg-ray evaluate`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from omatg_ray.cli.arguments import local_path, number, on_error_argument, path_or_word
from omatg_ray.cli.output import CrystalsOutput, check_folder, check_output, crystals_arguments, crystals_output
from omatg_ray.cli.sampling import read_samplings, sampling_arguments, work_options
from omatg_ray.errors import ConfigError

SUMMARY = "measure models on known crystals"
DESCRIPTION = """\
Generate crystals for each reference of a file and compare: match rate, RMSE, cRMSE, METRe, relative energy, invalid
share; with several samples of each reference, coverage and diversity too.

  omatg-ray evaluate runs/better --data runs/better/data/test.extxyz --steps 50 --json out.json
  omatg-ray evaluate runs/base --data test.csv --steps 10 --slope-pos 5 --potential POTENTIAL
  omatg-ray evaluate bundled --data bundled --steps 10
  omatg-ray evaluate runs/base runs/better --data test.csv --steps 10,50,100 --samples 4 --to runs/compared

With --relax, every crystal is relaxed too, and a second line has the same after that. It says whether a model saves
the steps of a relaxation only, or finds lower crystals that no relaxation leads to:

  omatg-ray evaluate bundled/base bundled --data bundled --steps 10 --schedule bundled --relax 50 --to runs/relaxed

Your own reward is measured too with --reward; alone, on crystals that exist already, with --structures:

  omatg-ray evaluate runs/base runs/better --data test.csv --reward runs/better --to runs/compared
  omatg-ray evaluate --structures generated.extxyz --reward reward.yaml --json scored.json

Several models and numbers of steps make several cases, all shown with 95 % intervals. With --to, each finished case is
kept in DIR/cases and not evaluated again: repeat a command that was interrupted to continue it; one with more cases
adds to the report. All metrics are defined in docs/evaluation.md.

A crystal depends only on (seed, row, sample), so evaluations with one seed can be compared row by row. A base model
of your own anneals only with --schedule or slopes (bundled/base has a schedule made by hand, and --schedule bundled
is a learned one); a reinforced one anneals as it was trained. In the capped mean, an invalid crystal counts as if its
energy were 3 eV/atom (--invalid-energy), and no other crystal counts as more, before the energy of its reference is
subtracted. Without the cap, one crystal with overlapping atoms would dominate the mean.

A reference is in domain if model and potential were trained on crystals with its elements, each pair of them, as many
elements and as many atoms. --json says for each why not.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    sampling_arguments(parser, several=True)
    parser.add_argument(
        "--data",
        type=path_or_word,
        metavar="FILE",
        help="reference crystals, in any format that pretrain reads; bundled: the test split of the bundled ones",
    )
    parser.add_argument(
        "--reward",
        type=local_path,
        metavar="CONFIG",
        help="also measure a reward of your own, its parts and their values: a YAML file with a section `reward`, or "
        "the folder of a run",
    )
    parser.add_argument(
        "--structures",
        type=path_or_word,
        metavar="FILE",
        help="score these crystals with --reward, in place of a model: nothing is generated or compared",
    )
    parser.add_argument("--limit", type=number(int, 1), metavar="N", help="use N references, spread over the file")
    on_error_argument(parser, "references")
    parser.add_argument(
        "--drop-unknown",
        action="store_true",
        help="leave out references (or --structures) with elements that a model, the potential or the reward does not "
        "know, and say how many",
    )
    parser.add_argument(
        "--samples",
        type=number(int, 1),
        default=1,
        metavar="K",
        help="crystals for each reference; with several, coverage and diversity are measured too (default 1)",
    )
    parser.add_argument(
        "--to",
        type=path_or_word,
        metavar="DIR",
        help="keep every case in this folder, with evaluation.json, compositions.parquet and report.html; cases "
        "already there are not evaluated again",
    )
    parser.add_argument(
        "--potential",
        type=path_or_word,
        metavar="NAME",
        help="MatGL potential of the energies, or bundled (default: the one that rewarded the model, else, for bundled "
        "data, the bundled one; none: no energies)",
    )
    parser.add_argument(
        "--relax",
        type=number(int, 0),
        default=0,
        metavar="N",
        help="also relax every crystal in at most N steps with the potential, and measure energies and matches once "
        "more (default 0: no)",
    )
    parser.add_argument(
        "--invalid-energy",
        type=number(float, -math.inf, above=True),
        default=3.0,
        metavar="E",
        help="energy in eV/atom that invalid crystals count as in the capped mean, and others at most (default 3)",
    )
    parser.add_argument(
        "--plausible",
        dest="plausibility",
        action="store_true",
        help="also count matches of only the chemically plausible crystals (SMACT, fingerprints; needs the extra "
        "`validity`)",
    )
    parser.add_argument(
        "--json",
        type=local_path,
        metavar="FILE",
        help="write metrics here; for a single case, with the values of every crystal",
    )
    crystals_arguments(parser, None, "write the crystals of a single case")


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    json_path = check_output(arguments.json, ".json")
    out = crystals_output(arguments)
    if out is not None and out.holds_one:
        raise ConfigError(f"cannot write {out.path}: it holds one crystal; --out folder/ --format vasp writes all")
    folder = check_folder(arguments.to)
    if arguments.structures is not None:
        _score(arguments, json_path, out)
        return
    if not arguments.models or arguments.data is None:
        raise ConfigError("name a MODEL and its references (--data), or crystals to score (--structures, --reward)")
    from omatg_ray.train.early import require_crystals, require_models, require_potential, reward_config
    from omatg_ray.train.job import find_input

    models = tuple(dict.fromkeys(find_input(model, "MODEL") for model in arguments.models))
    data = find_input(arguments.data, "--data")
    work = work_options(arguments)
    require_models(models)
    require_crystals(data)
    require_potential(work["potential"])
    reward = _reward(arguments)
    if reward is not None:
        reward_config(reward)
    steps = tuple(dict.fromkeys(arguments.steps))
    samplings = tuple(read_samplings(arguments, steps))
    cases = len(models) * len(samplings)
    if out is not None and (folder is not None or cases > 1):
        raise ConfigError("--out takes the crystals of a single case; --to DIR keeps those of every case there")
    from omatg_ray.commands import evaluate as commands
    from omatg_ray.report.tables import comparison_table, rewards_table
    from omatg_ray.run.atomic import write_json

    names = ("limit", "on_error", "drop_unknown", "samples", "invalid_energy", "plausibility", "relax")
    measured = {name: getattr(arguments, name) for name in names} | {"data": data, "reward": reward, **work}
    if folder is None and cases == 1:
        options = commands.EvaluateOptions(model=models[0], sampling=samplings[0][1], **measured)
        evaluation = commands.evaluate(options, not arguments.quiet)
        if json_path is not None:
            write_json(Path(json_path), commands.flatten_evaluation(evaluation.as_dict()))
        if out is not None:
            out.write(evaluation.crystals, None, options.workers, options.timeout, not arguments.quiet)
        print(commands.table([evaluation.as_dict()]))
        if own := rewards_table([evaluation.as_dict()]):
            print(f"\n{own}\n")
        if line := commands.relaxation_line(evaluation):
            print(line)
        print(commands.domain_line(evaluation))
        return
    compared = commands.compare(
        commands.CompareOptions(models=models, samplings=samplings, folder=folder, **measured),
        not arguments.quiet,
    )
    comparison = compared.comparison
    if json_path is not None:
        single = comparison.results[0].values
        write_json(Path(json_path), commands.flatten_evaluation(single) if cases == 1 else comparison.as_dict())
    print(comparison_table(comparison))
    if own := rewards_table([result.values for result in comparison.results]):
        print(f"\n{own}\n")
    if compared.resumed:
        print(f"evaluated before, and not again: {compared.resumed} of {cases} cases")
    if compared.others:
        print(f"from other calls with the same references, seed and samples: {compared.others} cases")
    if compared.report is not None:
        print(f"report: {compared.report}")


def _reward(arguments: argparse.Namespace) -> Path | None:
    """Return where the configuration of the reward is; in a job, where the job has it."""
    from omatg_ray.train.job import find_input

    return None if arguments.reward is None else Path(find_input(arguments.reward, "--reward"))


def _score(arguments: argparse.Namespace, json_path: str | None, out: CrystalsOutput | None) -> None:
    """Score crystals that exist already."""
    reward = _reward(arguments)
    if reward is None:
        raise ConfigError("--structures: name the reward to score them with, --reward CONFIG")
    given = {
        "MODEL": arguments.models,
        "--data": arguments.data,
        "--to": arguments.to,
        "--limit": arguments.limit,
        "--ray": arguments.ray,
        "--plausible": arguments.plausibility,
        "--samples": arguments.samples > 1,
        "--relax": arguments.relax,
    }
    for name, value in given.items():
        if value:
            raise ConfigError(f"--structures: nothing is generated or compared; leave out {name}")
    from omatg_ray.run.job_paths import find_potential
    from omatg_ray.train.early import require_crystals, require_potential, reward_config
    from omatg_ray.train.job import find_input

    structures, potential = find_input(arguments.structures, "--structures"), find_potential(arguments.potential)
    require_crystals(structures)
    require_potential(potential)
    reward_config(reward)
    from omatg_ray.commands.score import ScoreOptions, score
    from omatg_ray.report.tables import rewards_table
    from omatg_ray.run.atomic import write_json

    names = ("on_error", "drop_unknown", "device", "threads", *([] if arguments.block is None else ["block"]))
    given = {name: getattr(arguments, name) for name in names}
    options = ScoreOptions(structures=structures, reward=reward, potential=potential, **given)
    scored = score(options, not arguments.quiet)
    found = scored.as_dict()
    if json_path is not None:
        write_json(Path(json_path), found)
    if out is not None:
        out.write(scored.dataset.crystals, scored.properties, arguments.workers, arguments.timeout, not arguments.quiet)
    print(f"{found['n']} crystals, {found['per_structure']['valid'].count(False)} of them invalid")
    print(rewards_table([found]))
