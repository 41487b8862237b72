"""The command `omatg-ray`: one verb per job, options that map onto the Python API."""

from __future__ import annotations

import argparse
import codecs
import errno
import locale
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from omatg_ray.assets import quickstart
from omatg_ray.cli_words import key_of, told_apart
from omatg_ray.errors import ConfigError, DataError, DataWarning, OmatgRayError
from omatg_ray.run.advice import command
from omatg_ray.run.location import BUNDLED, as_place, expanded, inside
from omatg_ray.run.quiet import quiet_libraries
from omatg_ray.run.storage import files_at
from omatg_ray.run.streams import open_closed, outliving_readers

if TYPE_CHECKING:
    from omatg_ray.config import Config
    from omatg_ray.policy.annealing import Annealing

DESCRIPTION = """\
Reinforce flow-based crystal generators by policy gradients on their velocity fields.

With what the package carries (a base model, its crystals, a potential), in minutes on two cores:

  omatg-ray train

A whole project, from a file of crystals to a better generator:

  omatg-ray pretrain configs/perov5_base.yaml data.file=perov_5.csv run=runs/base
  omatg-ray train configs/perov5_velocity.yaml base=runs/base reward.potential=POTENTIAL run=runs/better
  omatg-ray evaluate runs/better --data runs/better/data/test.extxyz
  omatg-ray generate runs/better --formula BaTiO3 -n 64 --potential POTENTIAL --out batio3.extxyz

POTENTIAL is a MatGL potential: its name, or a folder that holds it. Models, potentials and the crystals of `evaluate`
may be `bundled`. `omatg-ray VERB --help` explains each verb.
"""

PRETRAIN = """\
Train a base model on crystals: a CSV file with a cif column, CIF, POSCAR, extxyz, JSON, a folder of CIF files, ...
(docs/data.md). Cells are Niggli-reduced and the data split by composition; the splits are kept in the run folder as
data/*.extxyz. Crystals that cannot be used are refused and listed; data.on_error=skip goes on with the rest.

  omatg-ray pretrain configs/perov5_base.yaml data.file=perov_5.csv run=runs/base
  omatg-ray pretrain --resume runs/base

With ray.pretrain.workers=N it runs data-parallel on Ray Train.

The run folder gets checkpoints/best (lowest validation loss), metrics.jsonl, TensorBoard files and report.html.
"""

TRAIN = """\
Reinforce a base model: sample groups of perturbed trajectories, reward low energies, and move the velocity field
towards what did better within its group (OMatG-IRL, arXiv 2602.00424).

  omatg-ray train
  omatg-ray train configs/perov5_velocity.yaml base=runs/base reward.potential=POTENTIAL run=runs/better
  omatg-ray train configs/perov5_velocity.yaml base=runs/base reward.potential=POTENTIAL --dry-run
  omatg-ray train configs/perov5_velocity.yaml base=runs/base reward.potential=POTENTIAL ray.rollout.workers=3
  omatg-ray train --resume runs/better iterations=80

Where no config, base, potential or data is named, it reinforces the bundled model (configs/quickstart.yaml), in a new
run folder each time. Without data keys it takes the splits that the base's run kept. With ray.rollout.workers=N the
work is done by Ray actors, on the cluster at RAY_ADDRESS or on this machine (`omatg-ray config ray` lists all keys);
the results are the same. Ctrl-C stops after the present iteration with a checkpoint to resume from. The run ends with a
before/after table on the test split and report.html.

Progress shows, for each iteration: E median energy of the rollouts (eV/atom; every iteration has other compositions, so
follow the validations), the share of invalid ones, with several epochs the share of clipped ratios and, where the base
is asked, the KL to it (positions, lattice), and s, the seconds of rollout + reward + learning.
"""

EVALUATE = """\
Generate crystals for each reference of a file and compare: match rate, RMSE, cRMSE, METRe, relative energy, invalid
share; with several samples of each reference, coverage and diversity too.

  omatg-ray evaluate runs/better --data runs/better/data/test.extxyz --steps 50 --json out.json
  omatg-ray evaluate runs/base --data test.csv --steps 10 --slope-pos 5 --potential POTENTIAL
  omatg-ray evaluate bundled --data bundled --schedule bundled
  omatg-ray evaluate runs/base runs/better --data test.csv --steps 10,50,100 --samples 4 --to runs/compared

Several models and numbers of steps are cases, all of which are evaluated and shown with 95 % intervals. With --to, each
case that is done is kept in DIR/cases and not evaluated again: what was interrupted goes on with the same command, and
one with more cases adds to the report. All metrics are defined in docs/evaluation.md.

A crystal depends on (seed, row, sample) alone, so evaluations with one seed can be compared row by row. A base model
anneals only if told to, with --schedule or slopes (the bundled one: --schedule bundled at 10 points and
more); a reinforced one anneals as it was trained. In the capped mean, an invalid crystal counts as if its energy were
3 eV/atom (--invalid-energy), and no other as more, before that of its reference is subtracted: one crystal with
overlapping atoms decides a plain mean.
"""

ABLATE = """\
Compare learned schedules with none and with hand-made ones, at several numbers of grid points. Hand-made ones (linear,
quadratic, cosine, constant, unequal steps) are tuned on validation crystals at each number; figures are of the test
crystals.

  omatg-ray ablate configs/ablation.yaml
  omatg-ray ablate configs/ablation.yaml steps=[5,10,20] limit=100 run=runs/quick

`omatg-ray config ablation` lists the keys. What is in the folder is not computed again: a call that was interrupted
goes on when it is repeated. The folder gets report.html, ablation.json, and for each set a folder with all cases.
"""

TUNE = """\
Reinforce a model many times, with other values of a few keys each time, and keep what is best: Ray Tune on the cluster
at RAY_ADDRESS or on this machine. The space is in the YAML file, on any config keys.

  omatg-ray tune configs/sweep_velocity.yaml
  omatg-ray tune configs/sweep_velocity.yaml trials=32 concurrent=2 overrides.iterations=40 run=runs/sweep
  omatg-ray tune --resume runs/sweep
  omatg-ray train runs/sweep/best.yaml

Every trial is a run folder in trials/; a line is printed for each of its validations. The folder gets trials.json,
best.yaml (the config of the best trial, for `train`) and report.html. Ctrl-C saves and stops; --resume goes on, also
after a kill: what finished stays, other trials go on from their last validation. All keys: `omatg-ray config sweep`.
"""

GENERATE = """\
Generate crystals, drop invalid ones and duplicates, and rank them by energy where a potential is given.

  omatg-ray generate runs/better --formula TiO2 --z 2,4 -n 64 --potential POTENTIAL --relax 100 --out tio2.extxyz
  omatg-ray generate runs/better --formulas list.txt -n 16 --out crystals/
  omatg-ray generate bundled --formula NaCl -n 8 --potential bundled --relax 100 --schedule bundled
  omatg-ray generate models/mp20_de_novo --atoms 4 8 -n 16

What a model generates lies near a minimum of the energy, not in it: with --relax, cells and positions are relaxed
before duplicates, ranks and space groups are found. A base model anneals only if told to, with --schedule or slopes
(the bundled one: --schedule bundled at 10 points and more); a reinforced one anneals as it was trained.

The table shows formula, formula units per cell, rank, energy, energy above the best of the composition, space group and
how many of the crystals were the same. Those more than 3 eV/atom above the best (atoms that overlap) are marked with !.
Models that generate species take numbers of atoms in place of formulas.
The suffix of --out chooses the format: .extxyz, .cif, .json, or a folder of CIF files (ends in /).
"""

IMPORT = """\
Turn a model of OMatG into a model folder: a Lightning checkpoint and the configuration it was trained with. Says what
could not be carried over, and refuses what would generate other structures. What OMatG-IRL has reinforced needs its own
configuration and, with --base, the base model it started from.

  omatg-ray import-omatg checkpoint.ckpt train.yaml --out models/mp20
  omatg-ray import-omatg rl.ckpt rl_config.yaml --base models/mp20 --out models/mp20_better

Published models need no import: name them as base=OMatG/MP-20-CSP/Trig-SDE-Gamma, or as MODEL of other verbs.
"""

EXPORT = """\
The reverse: checkpoint.ckpt and train.yaml for `omg predict` of OMatG. Refused, with the reason, where one network and
OMatG's configuration cannot express the sampler.

  omatg-ray export-omatg runs/better --out for_omatg
  omg predict --config=for_omatg/train.yaml --ckpt_path=for_omatg/checkpoint.ckpt
"""

INFO = """\
What is bundled, in a few lines. With the name of one of these, crystals, potential, base or schedule, its whole card:
how it was made, what it is good for, its limits. With the folder of a model, a run or a schedule, or bundled: what this
model or schedule is made of. `base` is the card, ./base a folder.

  omatg-ray info
  omatg-ray info potential
  omatg-ray info runs/better
"""

DOCTOR = """\
Check that everything which a run needs is there and works, and say what to do where it is not. Exit code 1 if anything
fails.

  omatg-ray doctor
  omatg-ray doctor --potential POTENTIAL --no-ray
"""

CONFIG = """\
All configuration keys with their defaults. Give them in a YAML file, or override them on the command line as key=value.
"""

# What `omatg_ray.crystal.write` writes; "" is a folder.
STRUCTURE_SUFFIXES = (".extxyz", ".xyz", ".cif", ".json", "")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    open_closed()
    with outliving_readers() as lost:
        code = _main(argv)
    if code or lost.reason is None:
        return code
    if lost.reason == errno.EPIPE:
        return 141  # as of a program that its reader ends (`| head`)
    print(f"omatg-ray: what it had to say could not be written: {os.strerror(lost.reason)}", file=sys.stderr)
    return 1


def _main(argv: Sequence[str] | None) -> int:
    parser = _parser()
    # argparse gives the words before the first option to a positional and knows nothing to do with those after it.
    arguments, words = parser.parse_known_args(argv)
    unknown = [word for word in words if word.startswith("-")] or (words if "words" not in arguments else [])
    if unknown:
        hint = "; several numbers are joined by commas" if unknown[0].isdigit() else ""
        parser.error(f"unknown arguments: {' '.join(unknown)}{hint}")
    if words:
        arguments.words += words
    with _plain_messages():
        _warn_of_locale()
        try:
            arguments.run(arguments)
        except OmatgRayError as error:
            print(f"omatg-ray: {_message(error)}", file=sys.stderr)
            return _exit_code(error)
        except KeyboardInterrupt:
            print("omatg-ray: interrupted", file=sys.stderr)
            return 130
    return 0


def _warn_of_locale() -> None:
    """Files of this program are UTF-8 everywhere; those of libraries, and what is printed, follow the locale."""
    encoding = locale.getencoding()
    if codecs.lookup(encoding).name != "utf-8" and not sys.flags.utf8_mode:
        logging.getLogger("omatg_ray").warning(
            "the encoding of the locale is %s: letters that it lacks are printed as \\u and a number, and names of "
            "files may be; set LC_ALL=C.UTF-8, or PYTHONUTF8=1",
            encoding,
        )


def _exit_code(error: OmatgRayError) -> int:
    from omatg_ray.run.interrupt import Interrupted

    if isinstance(error, Interrupted):
        return 130
    return 2 if isinstance(error, ConfigError) else 1


def _message(error: OmatgRayError) -> str:
    """In one line, or where it lists what is wrong in many places, in a line each."""
    return str(error) if isinstance(error, DataError) and error.reasons else _compact(str(error))


def _compact(message: str) -> str:
    """In one line; libraries' messages, which some errors quote, come in many."""
    lines = [line.strip() for line in message.splitlines()]
    return " ".join(line for line in lines if line)


@contextmanager
def _plain_messages() -> Iterator[None]:
    """Shows this package's warnings in one line and leaves out those of libraries, which users cannot act on."""
    handler = _Printer(logging.WARNING)
    logger = logging.getLogger("omatg_ray")
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            quiet_libraries()
            warnings.showwarning = lambda message, *_, **__: _log(logger, message)
            yield
    finally:
        logger.removeHandler(handler)


def _log(logger: logging.Logger, message: Warning | str) -> None:
    for line in str(message).splitlines() if isinstance(message, DataWarning) else [message]:
        logger.warning("%s", line)


class _Printer(logging.Handler):
    """Prints messages above a progress bar that may be there."""

    def emit(self, record: logging.LogRecord) -> None:
        from omatg_ray.run.progress import print_line

        print_line(f"{record.levelname.lower()}: {_compact(record.getMessage())}")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the usage of a verb alone takes five."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {_compact(message)}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="omatg-ray", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    def verb(name: str, summary: str, text: str, run: Callable[[Any], None]) -> argparse.ArgumentParser:
        sub = verbs.add_parser(
            name, help=summary, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        sub.set_defaults(run=run)
        return sub

    for name, summary, text, run in (
        ("pretrain", "train a base model on crystals", PRETRAIN, _pretrain),
        ("train", "reinforce a model", TRAIN, _train),
    ):
        sub = verb(name, summary, text, run)
        _run_arguments(sub)
        sub.add_argument(
            "--dry-run", action="store_true", help="print what would run, with time and memory; write nothing"
        )

    sub = verb("evaluate", "measure models on known crystals", EVALUATE, _evaluate)
    _sampling_arguments(sub, several=True)
    sub.add_argument(
        "--data",
        required=True,
        type=_word,
        metavar="FILE",
        help="reference crystals, in any format that pretrain reads; bundled: the test split of the bundled ones",
    )
    sub.add_argument("--limit", type=_number(int, 1), metavar="N", help="use N references, spread over the file")
    sub.add_argument(
        "--on-error",
        choices=("refuse", "skip"),
        default="refuse",
        help="references that cannot be used: refuse the file and list them (default), or skip them and say how many",
    )
    sub.add_argument(
        "--samples",
        type=_number(int, 1),
        default=1,
        metavar="K",
        help="crystals for each reference; of several, coverage and diversity are measured too (default 1)",
    )
    sub.add_argument(
        "--to",
        type=_word,
        metavar="DIR",
        help="keep every case in this folder, with evaluation.json, compositions.parquet and report.html; cases that "
        "it holds already are not evaluated again",
    )
    sub.add_argument(
        "--potential",
        type=_word,
        metavar="NAME",
        help="MatGL potential of the energies, or bundled (default: that which rewarded the model, else, for bundled "
        "data, the bundled one; none: no energies)",
    )
    sub.add_argument(
        "--invalid-energy",
        type=_number(float, -math.inf, above=True),
        default=3.0,
        metavar="E",
        help="energy in eV/atom that invalid crystals count as in the capped mean, and others at most (default 3)",
    )
    sub.add_argument(
        "--plausible",
        action="store_true",
        help="also count matches of chemically plausible crystals alone (SMACT, fingerprints; needs the extra "
        "`validity`)",
    )
    sub.add_argument(
        "--json",
        type=_file,
        metavar="FILE",
        help="write metrics here; of a single case with the values of every crystal",
    )
    sub.add_argument(
        "--out",
        type=_word,
        metavar="FILE",
        help="write the crystals of a single case here (.extxyz, .cif, .json or folder/)",
    )

    sub = verb("ablate", "compare learned with hand-made annealing", ABLATE, _ablate)
    sub.add_argument("config", type=_place, metavar="CONFIG", help="a YAML file")
    sub.add_argument("words", nargs="*", metavar="key=value", help="overrides")
    sub.add_argument("--quiet", action="store_true", help="no progress")

    sub = verb("tune", "find good keys for train", TUNE, _tune)
    sub.add_argument("words", nargs="*", metavar="CONFIG | key=value", help="a YAML file of a sweep, then overrides")
    sub.add_argument("--resume", type=_place, metavar="RUN", help="go on with the sweep in this folder")
    sub.add_argument("--quiet", action="store_true", help="no progress")

    sub = verb("generate", "generate crystals for formulas", GENERATE, _generate)
    _sampling_arguments(sub)
    what = sub.add_mutually_exclusive_group(required=True)
    what.add_argument("--formula", nargs="+", metavar="FORMULA", help="one or more formulas, e.g. TiO2")
    what.add_argument("--formulas", type=_file, metavar="FILE", help="file with one formula a line")
    what.add_argument(
        "--atoms",
        nargs="+",
        type=_number(int, 1),
        metavar="N",
        help="atoms per cell, for a model that generates species",
    )
    sub.add_argument("--z", default="1", help="formula units per cell, e.g. 2,4 or 1-4 (default 1)")
    sub.add_argument("-n", type=_number(int, 1), default=1, help="crystals per formula and z, or N (default 1)")
    sub.add_argument(
        "--potential", type=_word, metavar="NAME", help="MatGL potential to rank by, or bundled (default: no ranking)"
    )
    sub.add_argument(
        "--relax",
        type=_number(int, 1),
        default=0,
        metavar="N",
        help="relax every valid crystal in at most N steps with the potential, in this process (default: not at all)",
    )
    sub.add_argument(
        "--out",
        default="generated.extxyz",
        type=_word,
        metavar="FILE",
        help=".extxyz, .cif, .json or folder/ (generated.extxyz)",
    )

    sub = verb("import-omatg", "turn a model of OMatG into a model folder", IMPORT, _import_omatg)
    sub.add_argument("checkpoint", type=_file, metavar="CHECKPOINT", help="Lightning checkpoint (.ckpt)")
    sub.add_argument("config", type=_file, metavar="CONFIG", help="the configuration it was trained with (.yaml)")
    sub.add_argument("--out", type=_file, required=True, metavar="DIR", help="new model folder")
    sub.add_argument("--base", type=_word, metavar="MODEL", help="base model of a reinforced one, imported before")
    sub.add_argument(
        "--data",
        type=_file,
        metavar="FILE",
        help="training crystals, which tell elements and cell sizes (default: what CONFIG names, if it is there)",
    )
    sub.add_argument("--quiet", action="store_true", help="no progress")

    sub = verb("export-omatg", "turn a model into files of OMatG", EXPORT, _export_omatg)
    sub.add_argument(
        "model", type=_word, metavar="MODEL", help="model folder, run folder (its best checkpoint), or bundled"
    )
    sub.add_argument("--out", type=_file, required=True, metavar="DIR", help="new folder")
    sub.add_argument(
        "--steps", type=_number(int, 2), metavar="N", help="grid points (default: those it was imported with, else 50)"
    )
    sub.add_argument(
        "--data",
        type=_word,
        metavar="FILE",
        help="LMDB or Parquet file of compositions to predict (default: OMatG's own)",
    )

    sub = verb("report", "write a run's report anew", "Write report.html of a run folder anew.", _report)
    sub.add_argument("folder", type=_place, metavar="RUN", help="run folder, or its URL")

    sub = verb("info", "show what is bundled, or what a model is", INFO, _info)
    sub.add_argument(
        "names",
        nargs="*",
        type=_word,
        metavar="NAME",
        help="crystals, potential, base, schedule; or bundled, or a model or run folder, e.g. ./base",
    )

    sub = verb("doctor", "check that everything works here", DOCTOR, _doctor)
    sub.add_argument("--potential", type=_word, metavar="NAME", help="check this MatGL potential too")
    sub.add_argument("--no-ray", action="store_true", help="start no Ray")

    sub = verb("config", "list all configuration keys", CONFIG, _config)
    sub.add_argument(
        "prefix",
        nargs="?",
        default="",
        help="only keys that start with this, e.g. rollout; ablation: those of `ablate`; sweep: those of `tune`",
    )
    return parser


def _number(kind: type[int] | type[float], low: float, above: bool = False) -> Callable[[str], int | float]:
    """A parser of finite numbers of at least `low`, or above it."""

    def parse(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = kind(low) - 1
        if not (value > low if above else value >= low) or value == math.inf:
            what = "an integer" if kind is int else "a number"
            bound = f"above {low:g}" if above else f"of at least {low:g}"
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} {bound}")
        return value

    return parse


def _numbers(text: str) -> list[int]:
    """Numbers of grid points, separated by commas."""
    parse = _number(int, 2)
    return [int(parse(part)) for part in text.split(",")]


def _word(text: str) -> str:
    """A path, or a word that stands for what is bundled or can be fetched."""
    try:
        return expanded(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _file(text: str) -> Path:
    return Path(_word(text))


def _place(text: str) -> Path | str:
    try:
        return as_place(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _run_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("words", nargs="*", metavar="CONFIG | key=value", help="a YAML file, then overrides")
    which = sub.add_mutually_exclusive_group()
    which.add_argument(
        "--resume", type=_place, metavar="RUN", help="go on with the run in this folder or at this URL, exactly"
    )
    which.add_argument(
        "--continue",
        dest="start_or_resume",
        action="store_true",
        help="start the run named by run=, or resume it if there is one already: for jobs that are tried again",
    )
    sub.add_argument("--quiet", action="store_true", help="no progress")


def _sampling_arguments(sub: argparse.ArgumentParser, several: bool = False) -> None:
    sub.add_argument(
        "models" if several else "model",
        nargs="+" if several else None,
        type=_word,
        metavar="MODEL",
        help="model folder, run folder (its best checkpoint), URL of one, or bundled",
    )
    sub.add_argument(
        "--steps",
        type=_numbers if several else _number(int, 2),
        default=[50] if several else 50,
        metavar="N,..." if several else "N",
        help="points of the time grid; N - 1 network evaluations (default 50)",
    )
    sub.add_argument(
        "--noise",
        choices=["none", "policy"],
        default="none",
        help="without noise or with that of the trained policy (default none)",
    )
    sub.add_argument(
        "--solver",
        default="euler",
        metavar="NAME",
        help="another method of torchdiffeq than euler, e.g. midpoint, rk4, dopri5 (adaptive: chooses its own steps); "
        "without noise",
    )
    slope: dict[str, Any] = {"type": _number(float, -1), "metavar": "S"}
    sub.add_argument(
        "--slope-pos",
        help="multiply the velocity of positions by 1 + S t, in place of the model's own annealing; a base model has "
        "none of its own, and for the bundled one 5, with 2 for lattices, is much better at 50 points",
        **slope,
    )
    sub.add_argument("--slope-cell", help="the same for lattices; of the two, one that is not given is 0", **slope)
    sub.add_argument(
        "--schedule",
        action="append",
        type=_word,
        metavar="SCHEDULE",
        help="annealing in place of the model's own: none, linear:pos=5,cell=2, quadratic:..., cosine:..., "
        "constant:..., steps:power=2, bundled, or the folder of a learned schedule or of the run that learned it "
        f"(default: own){'; several: once for each' if several else ''}",
    )
    sub.add_argument("--seed", type=_number(int, 0), default=0, metavar="N", help="seed of start and noise (default 0)")
    sub.add_argument(
        "--workers",
        type=_number(int, 0),
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes that compare structures; 0: in this one (default: one per core)",
    )
    sub.add_argument(
        "--timeout",
        type=_number(float, 0, above=True),
        default=10.0,
        metavar="SECONDS",
        help="longest time for one comparison, which then counts as no match (default 10)",
    )
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto: a GPU if there is one)")
    sub.add_argument(
        "--threads", type=_number(int, 1), metavar="N", help="PyTorch's CPU threads (default: PyTorch's choice)"
    )
    sub.add_argument(
        "--chunk-pairs",
        type=_number(int, 1),
        metavar="N",
        help="ordered pairs of atoms per network call; bounds memory (default 20,000)",
    )
    sub.add_argument(
        "--block",
        type=_number(int, 1),
        metavar="N",
        help="crystals generated and measured together, by one actor where there are several (default 256)",
    )
    sub.add_argument(
        "--ray",
        metavar="KEY=VALUE,...",
        help="generate and measure on Ray actors: rollout.workers=4,reward.workers=2,rollout.gpus=1 (keys of "
        "`omatg-ray config ray`)",
    )
    sub.add_argument("--quiet", action="store_true", help="no progress")


def _start_or_resume(arguments: argparse.Namespace) -> None:
    """Makes a --resume of --continue where the folder holds a run already."""
    if not arguments.start_or_resume:
        return
    from omatg_ray.config import Config
    from omatg_ray.run.job_paths import lasting

    _, overrides = told_apart(arguments.words)
    named = [word for word in overrides if key_of(word) == "run"]
    if not named:
        raise ConfigError("--continue needs run=FOLDER, the run to start or to go on with")
    run = Config.load(None, named).run
    place = run if isinstance(run, str) else lasting(run)
    if _holds_config(place):
        arguments.resume = place
        arguments.words = [word for word in overrides if word not in named]


def _holds_config(run: Path | str) -> bool:
    """Whether there is a run in a folder or at a URL."""
    from omatg_ray.run.sync import CONFIG

    return CONFIG in files_at(run) if isinstance(run, str) else (run / CONFIG).is_file()


def _load_config(arguments: argparse.Namespace) -> Config:
    from omatg_ray.config import Config
    from omatg_ray.run.job_paths import lasting
    from omatg_ray.run.sync import CONFIG
    from omatg_ray.train.job import anchored

    files, overrides = told_apart(arguments.words)
    if arguments.resume is not None:
        if files:
            raise ConfigError(f"--resume takes the config of the run; leave out {files[0]}")
        run = arguments.resume if isinstance(arguments.resume, str) else lasting(arguments.resume)
        if not _holds_config(run):
            raise ConfigError(f"there is no run to go on with in {run}: no {CONFIG}")
        config = Config.load(inside(run, CONFIG), overrides)
        # What a run at a URL left in its scratch folder goes on there, and is stored where it belongs if that is named.
        if isinstance(run, str) or isinstance(config.run, Path) or "run" not in map(key_of, overrides):
            return anchored(config.model_copy(update={"run": run}))
        kept_of = Config.load(run / CONFIG).run
        if config.run != kept_of:
            raise ConfigError(f"run: what is in {run} belongs to {kept_of}, not to {config.run}")
        arguments.resume = run
        return anchored(config)
    if len(files) > 1:
        raise ConfigError(f"one config file, please, not {len(files)}: {', '.join(files)}")
    return anchored(Config.load(files[0] if files else None, overrides))


def _resume(arguments: argparse.Namespace, config: Config) -> bool | Path:
    """Whether a run goes on; for one at a URL, the scratch folder from which it does, if one is named."""
    scratch = isinstance(arguments.resume, Path) and isinstance(config.run, str)
    return Path(arguments.resume) if scratch else arguments.resume is not None


def _sampling(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `_sampling_arguments` read, and the potential, as `SamplingOptions` takes it."""
    from omatg_ray.train.job import found_or_bundled

    model = found_or_bundled(arguments.model, "MODEL")
    schedules = _schedules(arguments)
    if len(schedules) > 1:
        raise ConfigError(f"one --schedule, please, not {len(schedules)}")
    return {"model": model, "steps": arguments.steps, "schedule": schedules[0][1], **_work(arguments)}


def _schedules(arguments: argparse.Namespace) -> list[tuple[str, Annealing | None]]:
    """What the annealings are called, and the annealings; None is the model's own."""
    from omatg_ray.model.schedule import brief
    from omatg_ray.policy.hand_made import LinearAnnealing

    slopes = (arguments.slope_pos, arguments.slope_cell)
    if arguments.schedule is not None:
        if slopes != (None, None):
            raise ConfigError("--schedule: give either that or --slope-pos and --slope-cell, which mean linear ones")
        return [(text, _schedule(text)) for text in arguments.schedule]
    if slopes == (None, None):
        return [("own", None)]
    schedule = LinearAnnealing(pos=slopes[0] or 0.0, cell=slopes[1] or 0.0)
    return [(brief(schedule), schedule)]


def _work(arguments: argparse.Namespace) -> dict[str, Any]:
    """What does not depend on the sampler, as `WorkOptions` takes it."""
    from omatg_ray.config import Config
    from omatg_ray.run.job_paths import found_or_named

    names = ("noise", "solver", "seed", "workers", "timeout", "device", "threads")
    values = {name: getattr(arguments, name) for name in names}
    values["potential"] = found_or_named(arguments.potential)
    for name in ("chunk_pairs", "block"):
        if getattr(arguments, name) is not None:
            values[name] = getattr(arguments, name)
    words = [word.removeprefix("ray.") for word in arguments.ray.split(",")] if arguments.ray else []
    for word in words:
        if word.startswith(("learner", "pretrain")):
            raise ConfigError(f"--ray {word}: only rollout and reward actors take part in this")
    ray = Config.load(None, [f"ray.{word}" for word in words]).ray
    if words and not ray.rollout.workers:
        raise ConfigError("--ray: say how many rollout.workers generate, e.g. --ray rollout.workers=4")
    return values | {"ray": ray}


def _schedule(text: str) -> Annealing | None:
    """The schedule that a text means; a folder is looked for where a job finds its files."""
    from omatg_ray.model.schedule import KINDS, NONE, OWN, read_schedule
    from omatg_ray.run.job_paths import found_or_named

    named = text in (NONE, OWN, BUNDLED) or text.partition(":")[0] in KINDS
    return read_schedule(text if named else found_or_named(text) or text)


def _check_output(path: str | Path | None, suffixes: Sequence[str]) -> str | None:
    """Where to write what is asked for; refuses before a long computation what could not be written after it."""
    if path is None:
        return None
    from omatg_ray.run.job_paths import lasting

    place = f"{lasting(Path(path))}{'/' if str(path).endswith('/') else ''}"
    target = Path(place)
    folder = "" in suffixes and (place.endswith("/") or not target.suffix)
    if not folder and target.suffix.lower() not in suffixes:
        known = ", ".join(suffix or "a folder (end the path in /)" for suffix in suffixes)
        raise ConfigError(f"cannot write {place}: the suffix must be {known}")
    if target.is_dir() and not (folder and not any(target.iterdir())):
        raise ConfigError(
            f"cannot write {place}: there is a folder of that name{' with files in it' if folder else ''}"
        )
    above = next(parent for parent in target.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ConfigError(f"cannot write {place}: {above} is not a folder that you may write to")
    return place


def _pretrain(arguments: argparse.Namespace) -> None:
    _start_or_resume(arguments)
    config = _load_config(arguments)
    from omatg_ray.train.early import refuse_pretrain

    refuse_pretrain(config, arguments.resume is None)
    if arguments.dry_run:
        from omatg_ray.train.device import choose_device, set_threads
        from omatg_ray.train.estimate import describe_pretraining
        from omatg_ray.train.splits import load_splits

        set_threads(config.threads)
        split = load_splits(config.data, not arguments.quiet)
        print(describe_pretraining(config, split, choose_device(config.device)))
        return
    from omatg_ray.commands.pretrain import pretrain

    best = pretrain(config, _resume(arguments, config), not arguments.quiet)
    print(f"best model: {best}\nreport: {inside(config.run, 'report.html')}")


def _train(arguments: argparse.Namespace) -> None:
    _start_or_resume(arguments)
    default = arguments.resume is None and _asks_for_the_default(arguments.words)
    if default:
        arguments.words = [str(quickstart()), *arguments.words]
    config = _load_config(arguments)
    if default:
        config = _default_run(config, free="run" not in map(key_of, arguments.words))
    from omatg_ray.train.early import refuse_train

    refuse_train(config, arguments.resume is None and not arguments.dry_run)
    if arguments.dry_run:
        from omatg_ray.train.build import prepare
        from omatg_ray.train.estimate import describe, estimate
        from omatg_ray.train.precision import decided

        parts = prepare(config, not arguments.quiet)
        config = decided(config, parts)
        print(describe(config, parts, estimate(config, parts)))
        return
    from omatg_ray.commands.evaluate import table
    from omatg_ray.commands.train import train
    from omatg_ray.evaluate.change import changes

    result = train(config, _resume(arguments, config), not arguments.quiet)
    print(f"\ntest split, {config.validated_steps} grid points, energies in eV/atom\n{table(result.rows)}")
    if result.iteration:
        differences = "\n".join(f"  {change}" for change in changes(*result.rows[:2]))
        print(f"\nreinforced less base, with 95 % intervals (paired bootstrap)\n{differences}")
    print(f"\nbest model: {result.model}\nreport: {result.report}")
    from omatg_ray.commands.next_steps import next_steps

    improved = result.iteration > 0
    print(f"\n{next_steps(config, result.rows, result.generates_species, improved=improved)}")


def _asks_for_the_default(words: Sequence[str]) -> bool:
    """Whether neither a config file nor any of what the default brings is named: base, potential, crystals."""
    files, overrides = told_apart(words)
    if files:
        return False
    brought = {"base", "data", "reward", "reward.potential"}
    return not any(key in brought or key.startswith("data.") for key in map(key_of, overrides))


def _default_run(config: Config, free: bool) -> Config:
    """Says what is run and where. It may be done twice: unless a folder is named, each time in one of its own."""
    from omatg_ray.run.state import free_run

    run = free_run(config.run) if free else config.run
    file, here = quickstart(), Path.cwd()
    text = f"without a config this is {file.relative_to(here) if file.is_relative_to(here) else file}, in {run}"
    if run != config.run:
        text += f" ({config.run} holds a run already; to go on with it: {command('train', '--resume', config.run)})"
    print(f"omatg-ray: {text}", file=sys.stderr)
    return config.model_copy(update={"run": run})


def _evaluate(arguments: argparse.Namespace) -> None:
    json_path = _check_output(arguments.json, [".json"])
    out = _check_output(arguments.out, STRUCTURE_SUFFIXES)
    folder = _check_folder(arguments.to)
    from omatg_ray.train.early import require_crystals, require_models, require_potential
    from omatg_ray.train.job import found_or_bundled

    models = tuple(dict.fromkeys(found_or_bundled(model, "MODEL") for model in arguments.models))
    data = found_or_bundled(arguments.data, "--data")
    work = _work(arguments)
    require_models(models)
    require_crystals(data)
    require_potential(work["potential"])
    steps = tuple(dict.fromkeys(arguments.steps))
    schedules = tuple(dict(_schedules(arguments)).items())
    cases = len(models) * len(steps) * len(schedules)
    if out is not None and (folder is not None or cases > 1):
        raise ConfigError(
            "--out takes the crystals of a single case; with --to DIR, those of every case are kept there"
        )
    from omatg_ray.commands.evaluate import (
        CompareOptions,
        EvaluateOptions,
        compare,
        evaluate,
        flattened,
        table,
        write_evaluation,
    )

    measured: dict[str, Any] = {
        "data": data,
        "limit": arguments.limit,
        "on_error": arguments.on_error,
        "samples": arguments.samples,
        "invalid_energy": arguments.invalid_energy,
        "plausibility": arguments.plausible,
        **work,
    }
    if folder is None and cases == 1:
        options = EvaluateOptions(model=models[0], steps=steps[0], schedule=schedules[0][1], **measured)
        evaluation = evaluate(options, not arguments.quiet)
        if json_path is not None:
            write_evaluation(Path(json_path), evaluation)
        if out is not None:
            from omatg_ray.crystal.write import write_structures

            write_structures(out, evaluation.crystals.to_structures())
        print(table([evaluation.as_dict()]))
        return
    from omatg_ray.report.comparison import comparison_table
    from omatg_ray.run.atomic import write_json

    compared = compare(
        CompareOptions(models=models, steps=steps, schedules=schedules, folder=folder, **measured),
        not arguments.quiet,
    )
    if json_path is not None:
        found = compared.comparison
        write_json(Path(json_path), flattened(found.results[0].values) if cases == 1 else found.as_dict())
    print(comparison_table(compared.comparison))
    if compared.resumed:
        print(f"done before, and not evaluated again: {compared.resumed} of {cases} cases")
    if compared.others:
        print(f"from other calls with the same references, seed and samples: {compared.others} cases")
    if compared.report is not None:
        print(f"report: {compared.report}")


def _ablate(arguments: argparse.Namespace) -> None:
    from omatg_ray.commands.ablation import AblationSettings

    settings = AblationSettings.load(arguments.config, arguments.words)
    from omatg_ray.commands.ablate import ablate
    from omatg_ray.report.ablation import ablation_table

    result = ablate(settings, not arguments.quiet)
    for name, found in result.sets.items():
        print(f"\n{name}\n{ablation_table(found)}")
    print(f"\nreport: {result.report}")


def _tune(arguments: argparse.Namespace) -> None:
    from omatg_ray.tune.settings import SweepSettings, folder_of_sweep, refuse_taken_by_sweep

    files, overrides = told_apart(arguments.words)
    if arguments.resume is not None:
        if arguments.words:
            raise ConfigError(f"--resume takes the settings of the sweep; leave out {arguments.words[0]}")
        folder_of_sweep(arguments.resume)
        from omatg_ray.commands.tune import resume_tune

        result = resume_tune(arguments.resume, not arguments.quiet)
    elif len(files) != 1:
        raise ConfigError("one file that describes a sweep, please, such as configs/sweep_velocity.yaml")
    else:
        settings = SweepSettings.load(as_place(files[0]), overrides)
        folder = refuse_taken_by_sweep(settings)
        from omatg_ray.train.early import refuse_train
        from omatg_ray.train.job import anchored

        refuse_train(anchored(settings.with_values(next(settings.corners()), folder)), new=False)
        from omatg_ray.commands.tune import tune

        result = tune(settings, not arguments.quiet)
    from omatg_ray.report.sweep import trials_table, without_gain

    folder = result.best.parent
    print(f"\n{trials_table(result.sweep, folder)}")
    nothing = without_gain(result.sweep, folder)
    if nothing is not None:
        print(f"\n{nothing}")
    print(f"\nbest config: {result.best}\nreport: {result.report}")
    if result.front:
        print(f"all of the Pareto front: {result.front[0].parent}/*.yaml")
    print(f"\nnext\n  {command('train', result.best, 'run=runs/tuned')}")


def _check_folder(path: str | None) -> Path | None:
    """A folder to write into, which may be there already; refuses before a long computation what could not be."""
    if path is None:
        return None
    from omatg_ray.run.job_paths import lasting
    from omatg_ray.run.location import is_remote

    if is_remote(path):
        raise ConfigError(f"--to {path}: a folder on this machine, please; copy it there when it is done")
    place = lasting(Path(path))
    if _holds_config(place):
        raise ConfigError(f"--to {place}: that is a run, whose report would be lost; name a folder of its own")
    above = next(parent for parent in (place.absolute(), *place.absolute().parents) if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ConfigError(f"cannot write into {place}: {above} is not a folder that you may write to")
    return place


def _generate(arguments: argparse.Namespace) -> None:
    out = _check_output(arguments.out, STRUCTURE_SUFFIXES)
    assert out is not None
    sampling = _sampling(arguments)
    from omatg_ray.run.job_paths import found
    from omatg_ray.train.early import require_models, require_potential

    require_models([sampling["model"]])
    require_potential(sampling["potential"])
    from omatg_ray.crystal.formula import cell_species, parse_z, read_formulas

    formulas = (
        arguments.formula if arguments.formulas is None else read_formulas(found(arguments.formulas, "--formulas"))
    )
    units = tuple(parse_z(arguments.z))
    for formula in formulas or ():
        cell_species(formula, max(units))
    from omatg_ray.commands.generate import GenerateOptions, generate, listing, summary
    from omatg_ray.crystal.write import write_structures

    options = GenerateOptions(
        formulas=tuple(formulas or ()),
        z=units,
        atoms=tuple(arguments.atoms or ()),
        count=arguments.n,
        relax=arguments.relax,
        **sampling,
    )
    result = generate(options, not arguments.quiet)
    write_structures(out, result.crystals.to_structures(), result.properties)
    print(listing(result))
    print(f"{summary(result)}, written to {out}")


def _report(arguments: argparse.Namespace) -> None:
    from omatg_ray.run.folder import RunFolder, copied
    from omatg_ray.run.job_paths import lasting

    if isinstance(arguments.folder, str):
        from omatg_ray.report.run import write_report

        # The run may be going on: nothing but the report is stored there.
        with copied(arguments.folder) as run:
            report = write_report(run.path)
            run.storage.put([report.relative_to(run.path).as_posix()])
            print(run.named(report))
        return
    folder = lasting(arguments.folder)
    if not RunFolder(folder).holds_run():
        raise ConfigError(
            f"there is no run in {folder} to report on (evaluate --to, ablate and tune write their reports anew when "
            "the same command is repeated; tune with --resume)"
        )
    from omatg_ray.report.run import write_report

    print(write_report(folder))


def _import_omatg(arguments: argparse.Namespace) -> None:
    from omatg_ray.commands.import_omatg import import_model
    from omatg_ray.run.job_paths import found, lasting
    from omatg_ray.train.job import found_or_bundled

    out = lasting(arguments.out)
    notes = import_model(
        found(arguments.checkpoint, "CHECKPOINT"),
        found(arguments.config, "CONFIG"),
        out,
        None if arguments.base is None else found_or_bundled(arguments.base, "--base"),
        None if arguments.data is None else found(arguments.data, "--data"),
        not arguments.quiet,
    )
    _print_notes(notes)
    print(f"model: {out}")


def _export_omatg(arguments: argparse.Namespace) -> None:
    from omatg_ray.run.job_paths import lasting
    from omatg_ray.train.early import require_models
    from omatg_ray.train.job import found_or_bundled

    model = found_or_bundled(arguments.model, "MODEL")
    require_models([model])
    from omatg_ray.commands.export_omatg import export_model

    written = export_model(model, lasting(arguments.out), arguments.steps, arguments.data)
    _print_notes(written.notes)
    print(f"checkpoint: {written.checkpoint}\nconfiguration: {written.config}")


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"note: {note}")


def _info(arguments: argparse.Namespace) -> None:
    from omatg_ray.commands.info import described, overview

    print("\n\n".join(map(described, arguments.names)) if arguments.names else overview())


def _doctor(arguments: argparse.Namespace) -> None:
    from omatg_ray.commands.doctor import examine

    failed = []
    for check in examine(arguments.potential, not arguments.no_ray):
        print(check, flush=True)
        failed += [check.name] if check.state == "fails" else []
    if failed:
        raise OmatgRayError(f"what fails: {', '.join(failed)}; the lines above say what to do")
    print("everything that `omatg-ray train` needs works")


def _config(arguments: argparse.Namespace) -> None:
    from omatg_ray.settings import documented_keys

    if arguments.prefix == "ablation":
        from omatg_ray.commands.ablation import AblationSettings, SetSettings

        of_set = documented_keys(SetSettings(model="bundled"), "sets.NAME.")
        rows = [*of_set, *documented_keys(AblationSettings(sets={"NAME": SetSettings(model="bundled")}))]
    elif arguments.prefix == "sweep":
        from omatg_ray.tune.settings import SweepSettings

        space = {"KEY": {"uniform": [0.0, 1.0]}}
        rows = documented_keys(SweepSettings.model_validate({"config": {}, "space": space}))
    else:
        rows = [row for row in documented_keys(Config()) if row[0].startswith(arguments.prefix)]
    if not rows:
        raise ConfigError(f"no key starts with {arguments.prefix!r}; `omatg-ray config` lists them all")
    for key, default, text in rows:
        print(f"{key} = {default}\n    {text}")
