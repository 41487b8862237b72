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
RENAMED = {
    "_named": ("omatg_ray.tune.trainable", "name_in_tune"),
    "Work": ("omatg_ray.tune.trial", "SweepRuns"),
    "Standing": ("omatg_ray.tune.results", "TrialScore"),
}
"""Module and new name of classes and functions by their old names, which that module once had too."""


def _find(removed: str, name: str) -> object:
    """Find what a removed module had. Modules are imported only here, since `optuna.py` needs an optional package."""
    if name in RENAMED:
        path, name = RENAMED[name]
        return getattr(import_module(path), name)
    for module in map(import_module, MOVED[removed]):
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"{removed} had no {name}")


@contextmanager
def known_by_old_names() -> Iterator[None]:
    """Let pickles of earlier versions find their classes, for the duration of the context."""
    added = [name for name in MOVED if name not in sys.modules]
    for name in added:
        sys.modules[name] = module = ModuleType(name)
        vars(module)["__getattr__"] = partial(_find, name)
    aliases = [(vars(import_module(path)), old, new) for old, (path, new) in RENAMED.items()]
    for names, old, new in aliases:
        names[old] = names[new]
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]
        for names, old, _ in aliases:
            names.pop(old, None)
