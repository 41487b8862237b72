"""The command `omatg-ray`: one verb per job, options that map onto the Python API."""

from __future__ import annotations

import argparse
import codecs
import errno
import locale
import logging
import os
import pkgutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn

from omatg_ray.cli import verbs as package
from omatg_ray.errors import ConfigError, DataError, DataWarning, OmatgRayError
from omatg_ray.run.quiet import quiet_libraries
from omatg_ray.run.streams import open_closed, tolerate_lost_readers

DESCRIPTION = """\
Reinforce flow-based crystal generators: by policy gradients on their velocity fields, and by gradients of energies.

With the bundled base model, crystals and potential, in minutes on two cores:

  omatg-ray train

A whole project, from a file of crystals to a better generator:

  omatg-ray check perov_5.csv --potential POTENTIAL
  omatg-ray pretrain configs/perov5_base.yaml data.file=perov_5.csv run=runs/base
  omatg-ray train configs/perov5_gradient.yaml base=runs/base reward.potential=POTENTIAL run=runs/better
  omatg-ray evaluate runs/better --data runs/better/data/test.extxyz
  omatg-ray generate runs/better --formula BaTiO3 -n 64 --potential POTENTIAL --out batio3.extxyz

POTENTIAL is a MatGL potential: its name, or a folder that holds it. Models, potentials and the crystals of `evaluate`
may be `bundled`. `omatg-ray VERB --help` explains each verb.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    open_closed()
    with tolerate_lost_readers() as lost:
        code = _main(argv)
    if code or not lost:
        return code
    if lost[-1] == errno.EPIPE:
        return 141  # the exit code of a program whose reader ends (`| head`)
    print(f"omatg-ray: the output could not be written: {os.strerror(lost[-1])}", file=sys.stderr)
    return 1


def _main(argv: Sequence[str] | None) -> int:
    given = sys.argv[1:] if argv is None else argv
    parser = _parser(given[0] if given else "")
    if given and given[0] not in RESUMABLE and any(word.partition("=")[0] == "--resume" for word in given):
        parser.error(
            f"--resume: give it to {', '.join(RESUMABLE[:-1])} or {RESUMABLE[-1]}, after the verb; to continue ablate "
            "or evaluate --to, repeat the same command"
        )
    # argparse gives the words before the first option to a positional, and leaves over those after it.
    arguments, words = parser.parse_known_args(given)
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
    """Warn if the locale is not UTF-8.

    Files of this program are always UTF-8; those of libraries, and printed text, follow the locale.
    """
    encoding = locale.getencoding()
    if codecs.lookup(encoding).name != "utf-8" and not sys.flags.utf8_mode:
        logging.getLogger("omatg_ray").warning(
            "the encoding of the locale is %s: characters that it lacks are printed as \\u and a number, also in names "
            "of files; set LC_ALL=C.UTF-8, or PYTHONUTF8=1",
            encoding,
        )


def _exit_code(error: OmatgRayError) -> int:
    from omatg_ray.run.interrupt import Interrupted

    if isinstance(error, Interrupted):
        return 130
    return 2 if isinstance(error, ConfigError) else 1


def _message(error: OmatgRayError) -> str:
    """Return an error's message in one line, or with a line for each reason if it lists several."""
    return str(error) if isinstance(error, DataError) and error.reasons else _compact(str(error))


def _compact(message: str) -> str:
    """Return a message in one line; quoted messages of libraries may have several."""
    lines = [line.strip() for line in message.splitlines()]
    return " ".join(line for line in lines if line)


@contextmanager
def _plain_messages() -> Iterator[None]:
    """Show this package's warnings in one line, and hide those of libraries, which users cannot act on."""
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
    """Handler that prints messages above a progress bar, if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        from omatg_ray.run.progress import print_line

        print_line(f"{record.levelname.lower()}: {_compact(record.getMessage())}")


class _Store(argparse.Action):
    """What argparse does with a value, but an option that is given twice is an error: argparse takes the last.

    It remembers, so a parser parses once.
    """

    given = False

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if option_string and self.given:
            several = "; several values follow it" if self.nargs else ""
            if str(self.metavar).endswith(",..."):
                several = "; several are joined by commas"
            raise argparse.ArgumentError(self, f"give it once{several}")
        self.given = True
        setattr(namespace, self.dest, values)


class _Parser(argparse.ArgumentParser):
    """Parser that reports an error in one line; the usage of a verb alone takes five."""

    def __init__(self, **keys: Any) -> None:
        super().__init__(**keys)
        self.register("action", None, _Store)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {_compact(message)}; see {self.prog} --help\n")


ORDER = (
    *("check", "pretrain", "train", "evaluate", "ablate", "tune", "generate", "relax", "search"),
    *("import-omatg", "export-omatg", "report", "info", "doctor", "config"),
)
"""Order of the verbs in the help; others follow by name."""
RESUMABLE = ("pretrain", "train", "tune", "search")
"""The verbs with the option --resume."""


def verbs() -> list[str]:
    """Return the names of all verbs: those of the modules in `omatg_ray/cli/verbs`."""
    found = {info.name.replace("_", "-") for info in pkgutil.iter_modules(package.__path__)}
    return [*ORDER, *sorted(found - set(ORDER))]


def _parser(verb: str) -> argparse.ArgumentParser:
    """Build the parser of a verb, or of all verbs if there is none of that name.

    So a verb whose module cannot be imported breaks itself alone.
    """
    as_written = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="omatg-ray", description=DESCRIPTION, formatter_class=as_written)
    subparsers = parser.add_subparsers(metavar="VERB", required=True)
    names = verbs()
    for name in [verb] if verb in names else names:
        try:
            module = import_module(f"{package.__name__}.{name.replace('-', '_')}")
        except Exception as error:
            if name == verb:
                raise
            subparsers.add_parser(name, help=f"cannot be loaded: {_compact(str(error))}")
            continue
        described = {"help": module.SUMMARY, "description": module.DESCRIPTION}
        sub = subparsers.add_parser(name, formatter_class=as_written, **described)
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser
