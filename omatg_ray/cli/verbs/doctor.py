"""`omatg-ray doctor`."""

from __future__ import annotations

import argparse

from omatg_ray.cli.arguments import path_or_word
from omatg_ray.errors import OmatgRayError

SUMMARY = "check that everything works here"
DESCRIPTION = """\
Check that everything a run needs is present and works, and say what to do if not. Exit code 1 if anything fails.

  omatg-ray doctor
  omatg-ray doctor --potential POTENTIAL --no-ray
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("--potential", type=path_or_word, metavar="NAME", help="check this MatGL potential too")
    parser.add_argument("--no-ray", action="store_true", help="do not start Ray")


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    from omatg_ray.commands.doctor import examine

    failed = []
    for check in examine(arguments.potential, not arguments.no_ray):
        print(check, flush=True)
        failed += [check.name] if check.state == "fails" else []
    if failed:
        raise OmatgRayError(f"failed checks: {', '.join(failed)}; the lines above say what to do")
    print("everything that `omatg-ray train` needs works")
