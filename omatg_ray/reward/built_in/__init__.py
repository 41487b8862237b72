"""Built-in rewards, one file each. A file's `Options` are the keys below `reward.<name>`, and build the reward."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Final

from omatg_ray.errors import RewardError
from omatg_ray.reward.options import Options

NAMES: Final = (
    "energy",
    "hull",
    "crmse",
    "non_triclinic",
    "non_centrosymmetric",
    "density",
    "volume",
)
"""Registry, in the order of metrics and reports."""


def options_of(name: str) -> type[Options]:
    """Return the `Options` in the file of a reward.

    Raises:
        RewardError: There is no such file, or it defines none.
    """
    file = Path(__file__).with_name(f"{name}.py")
    if not file.is_file():
        raise RewardError(f"reward {name} is in the registry NAMES, but there is no {file}; add it, or drop the name")
    found = getattr(import_module(f"{__name__}.{name}"), "Options", None)
    if not (isinstance(found, type) and issubclass(found, Options)):
        raise RewardError(f"reward {name}: {file} needs Options, a class derived from {Options.__module__}.Options")
    return found


OPTIONS: dict[str, type[Options]] = {name: options_of(name) for name in NAMES}
