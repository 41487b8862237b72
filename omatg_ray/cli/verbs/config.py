"""`omatg-ray config`."""

from __future__ import annotations

import argparse

from omatg_ray.errors import ConfigError

SUMMARY = "list all configuration keys"
DESCRIPTION = """\
All configuration keys with their defaults. Give them in a YAML file, or override them on the command line as key=value.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument(
        "prefix",
        nargs="?",
        default="",
        help="only keys that start with this, e.g. rollout; ablation: those of `ablate`; sweep: those of `tune`",
    )


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    from omatg_ray.config import Config
    from omatg_ray.settings import documented_keys

    if arguments.prefix == "ablation":
        from omatg_ray.commands.ablate_settings import AblationSettings, SetSettings

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
