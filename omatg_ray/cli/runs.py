"""The configuration of a new or resumed run, from the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from omatg_ray.cli.arguments import key_of, split_words
from omatg_ray.errors import ConfigError
from omatg_ray.run.location import Location, join_location
from omatg_ray.run.storage import files_at

if TYPE_CHECKING:
    from omatg_ray.config import Config


def start_or_resume(arguments: argparse.Namespace) -> None:
    """Turn --continue into --resume if the folder holds a run already."""
    if not arguments.start_or_resume:
        return
    from omatg_ray.config import Config
    from omatg_ray.run.job_paths import path_to_keep

    _, overrides = split_words(arguments.words)
    named = [word for word in overrides if key_of(word) == "run"]
    if not named:
        raise ConfigError("--continue needs run=FOLDER, the run to start or resume")
    run = Config.load(None, named).run
    location = run if isinstance(run, str) else path_to_keep(run)
    if holds_config(location):
        arguments.resume = location
        arguments.words = [word for word in overrides if word not in named]


def holds_config(run: Location) -> bool:
    """Return whether there is a run in a folder or at a URL."""
    from omatg_ray.run.sync import CONFIG

    return CONFIG in files_at(run) if isinstance(run, str) else (run / CONFIG).is_file()


def load_config(arguments: argparse.Namespace) -> Config:
    """Load the configuration of a new or resumed run.

    Raises:
        ConfigError: As `Config.load`; there is no such run; or more than one file is named.
    """
    from omatg_ray.config import Config
    from omatg_ray.run.job_paths import path_to_keep
    from omatg_ray.run.sync import CONFIG
    from omatg_ray.train.job import with_job_paths

    files, overrides = split_words(arguments.words)
    if arguments.resume is not None:
        if files:
            raise ConfigError(f"--resume uses the config of the run; leave out {files[0]}")
        run = arguments.resume if isinstance(arguments.resume, str) else path_to_keep(arguments.resume)
        if not holds_config(run):
            raise ConfigError(f"there is no run to resume in {run}: no {CONFIG}")
        config = Config.load(join_location(run, CONFIG), overrides)
        # A run at a URL may have left a scratch folder. It is resumed there, and stored at its URL if run= names it.
        if isinstance(run, str) or isinstance(config.run, Path) or "run" not in map(key_of, overrides):
            return with_job_paths(config.model_copy(update={"run": run}))
        owner = Config.load(run / CONFIG).run
        if config.run != owner:
            raise ConfigError(f"run: what is in {run} belongs to {owner}, not to {config.run}")
        arguments.resume = run
        return with_job_paths(config)
    if len(files) > 1:
        raise ConfigError(f"give one config file, not {len(files)}: {', '.join(files)}")
    return with_job_paths(Config.load(files[0] if files else None, overrides))


def resumes(arguments: argparse.Namespace, config: Config) -> bool | Path:
    """Return whether the run is resumed; or, for a run at a URL, the scratch folder to resume from if one is named."""
    scratch = isinstance(arguments.resume, Path) and isinstance(config.run, str)
    return Path(arguments.resume) if scratch else arguments.resume is not None
