"""What earlier versions called the classes that Ray Tune has pickled, by name, into the folder of a sweep."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
"""Modules that are gone, and those that have what was in them."""
RENAMED = {"_named": "name_in_tune", "Work": "SweepRuns", "Standing": "TrialScore"}
"""Classes and functions by their old names, some of them in modules that are still there."""


class _Moved(ModuleType):
    def __getattr__(self, name: str) -> object:
        for place in MOVED[self.__name__]:
            module = import_module(place)
            if hasattr(module, RENAMED.get(name, name)):
                return getattr(module, RENAMED.get(name, name))
        raise AttributeError(f"{self.__name__} had no {name}")


@contextmanager
def known_by_old_names() -> Iterator[None]:
    """Lets pickles of earlier versions find their classes, for as long as the context lasts."""
    added = [name for name in MOVED if name not in sys.modules]
    for name in added:
        sys.modules[name] = _Moved(name)
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
