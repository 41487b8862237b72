"""The configuration of a run, started or gone on with, as a command line asks for it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from omatg_ray.cli.words import key_of, told_apart
from omatg_ray.errors import ConfigError
from omatg_ray.run.location import Location, inside
from omatg_ray.run.storage import files_at

if TYPE_CHECKING:
    from omatg_ray.config import Config


def start_or_resume(arguments: argparse.Namespace) -> None:
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
    if holds_config(place):
        arguments.resume = place
        arguments.words = [word for word in overrides if word not in named]


def holds_config(run: Location) -> bool:
    """Whether there is a run in a folder or at a URL."""
    from omatg_ray.run.sync import CONFIG

    return CONFIG in files_at(run) if isinstance(run, str) else (run / CONFIG).is_file()


def load_config(arguments: argparse.Namespace) -> Config:
    """The configuration of a run that starts, or of the one that goes on.

    Raises:
        ConfigError: As `Config.load`; there is no such run; or more than one file is named.
    """
    from omatg_ray.config import Config
    from omatg_ray.run.job_paths import lasting
    from omatg_ray.run.sync import CONFIG
    from omatg_ray.train.job import anchored

    files, overrides = told_apart(arguments.words)
    if arguments.resume is not None:
        if files:
            raise ConfigError(f"--resume takes the config of the run; leave out {files[0]}")
        run = arguments.resume if isinstance(arguments.resume, str) else lasting(arguments.resume)
        if not holds_config(run):
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


def resumes(arguments: argparse.Namespace, config: Config) -> bool | Path:
    """Whether a run goes on; for one at a URL, the scratch folder from which it does, if one is named."""
    scratch = isinstance(arguments.resume, Path) and isinstance(config.run, str)
    return Path(arguments.resume) if scratch else arguments.resume is not None
