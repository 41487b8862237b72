"""`omatg-ray report`."""

from __future__ import annotations

import argparse

from omatg_ray.cli.arguments import location
from omatg_ray.errors import ConfigError

SUMMARY = "rewrite a run's report"
DESCRIPTION = "Rewrite report.html of a run folder."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("folder", type=location, metavar="RUN", help="run folder, or its URL")


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    from omatg_ray.run.folder import RunFolder, copy_run
    from omatg_ray.run.job_paths import path_to_keep

    if isinstance(arguments.folder, str):
        from omatg_ray.report.run import write_report

        # The run may still be active, so only the report is stored there.
        with copy_run(arguments.folder) as run:
            report = write_report(run.path)
            run.storage.put([report.relative_to(run.path).as_posix()])
            print(run.named(report))
        return
    folder = path_to_keep(arguments.folder)
    if not RunFolder(folder).holds_run():
        raise ConfigError(
            f"there is no run in {folder} to report on (to rewrite the report of evaluate --to, ablate or tune, repeat "
            "the same command; tune with --resume)"
        )
    from omatg_ray.report.run import write_report

    print(write_report(folder))
