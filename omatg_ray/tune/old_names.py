"""Former module and class names, needed because Ray Tune pickles classes by name into the folder of a sweep."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from types import ModuleType

MOVED = {
    "omatg_ray.commands.sweep": ("omatg_ray.tune.settings",),
    "omatg_ray.commands.trial": ("omatg_ray.tune.trial",),
    "omatg_ray.distributed.optuna_search": ("omatg_ray.tune.optuna",),
    "omatg_ray.distributed.schedulers": ("omatg_ray.tune.memory",),
    "omatg_ray.distributed.sweep": ("omatg_ray.tune.ray_tune", "omatg_ray.tune.log", "omatg_ray.tune.trainable"),
    "omatg_ray.distributed.sweep_room": ("omatg_ray.tune.room",),
    "omatg_ray.distributed.trial": ("omatg_ray.tune.trainable",),
    "omatg_ray.distributed.tuning": ("omatg_ray.tune.space", "omatg_ray.tune.schedulers"),
    "omatg_ray.evaluate.sweep": ("omatg_ray.tune.results",),
    "omatg_ray.rl.guards": ("omatg_ray.tune.guards",),
}
"""Removed modules, each with the modules that now hold its contents."""
RENAMED = {"_named": "name_in_tune", "Work": "SweepRuns", "Standing": "TrialScore"}
"""New names of classes and functions by their old ones, some in modules that still exist."""


def _find(removed: str, name: str) -> object:
    """Find what a removed module had."""
    for path in MOVED[removed]:
        module = import_module(path)
        if hasattr(module, RENAMED.get(name, name)):
            return getattr(module, RENAMED.get(name, name))
    raise AttributeError(f"{removed} had no {name}")


@contextmanager
def known_by_old_names() -> Iterator[None]:
    """Let pickles of earlier versions find their classes, for the duration of the context."""
    added = [name for name in MOVED if name not in sys.modules]
    for name in added:
        sys.modules[name] = module = ModuleType(name)
        vars(module)["__getattr__"] = partial(_find, name)
    modules = [import_module(name) for names in MOVED.values() for name in names]
    aliases = [(module, old, new) for module in modules for old, new in RENAMED.items() if hasattr(module, new)]
    for module, old, new in aliases:
        vars(module)[old] = vars(module)[new]
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]
        for module, old, _ in aliases:
            vars(module).pop(old, None)
