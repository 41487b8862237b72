"""Built-in rewards, one file each. A file's `Options` are the keys below `reward.<name>`, and build the reward."""

from __future__ import annotations

from importlib import import_module
from typing import Final

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

OPTIONS: dict[str, type[Options]] = {name: import_module(f"{__name__}.{name}").Options for name in NAMES}
