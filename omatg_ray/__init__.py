"""Reinforcement learning for flow-based crystal generators: policy gradients on their velocity fields.

    import omatg_ray as og

    model = og.bundled_model()
    crystals = model.sample(["NaCl"] * 8, steps=10)
    best = og.rank(crystals, relax=100)

The names below are the public API (docs/python.md). Each is imported on first use, so that `import omatg_ray` is fast.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from types import ModuleType
from typing import TYPE_CHECKING, Any

from omatg_ray.run.home import name_home
from omatg_ray.run.openmp import limit_spinning

if TYPE_CHECKING:
    from inspect import Signature

    from omatg_ray.commands.measure import evaluate as evaluate
    from omatg_ray.commands.pretrain import pretrain as pretrain
    from omatg_ray.commands.rank import rank as rank
    from omatg_ray.commands.relax import relax as relax
    from omatg_ray.commands.search import search as search
    from omatg_ray.commands.train import train as train
    from omatg_ray.commands.write_crystals import write_crystals as write_crystals
    from omatg_ray.config import Config as Config
    from omatg_ray.crystal.batch import CrystalBatch as CrystalBatch
    from omatg_ray.crystal.formula import cell_species as cell_species
    from omatg_ray.crystal.read import read_dataset as read_dataset
    from omatg_ray.errors import OmatgRayError as OmatgRayError
    from omatg_ray.model.flow_model import FlowModel as FlowModel
    from omatg_ray.model.flow_model import bundled_model as bundled_model
    from omatg_ray.policy.hand_made import LinearSchedule as LinearSchedule
    from omatg_ray.reward.energy import MatGLEnergy as MatGLEnergy
    from omatg_ray.rl.advantage import group_advantages as group_advantages
    from omatg_ray.rl.learner import Learner as Learner
    from omatg_ray.rl.rollout import Trajectory as Trajectory
    from omatg_ray.rl.work import plan_iteration as plan_iteration
    from omatg_ray.rl.work import run_item as run_item
    from omatg_ray.train.build import policy_model as policy_model
    from omatg_ray.train.callback import Callback as Callback
    from omatg_ray.train.callback import StopRun as StopRun

_HOMES = {
    "Callback": "omatg_ray.train.callback",
    "Config": "omatg_ray.config",
    "CrystalBatch": "omatg_ray.crystal.batch",
    "FlowModel": "omatg_ray.model.flow_model",
    "Learner": "omatg_ray.rl.learner",
    "LinearSchedule": "omatg_ray.policy.hand_made",
    "MatGLEnergy": "omatg_ray.reward.energy",
    "OmatgRayError": "omatg_ray.errors",
    "StopRun": "omatg_ray.train.callback",
    "Trajectory": "omatg_ray.rl.rollout",
    "bundled_model": "omatg_ray.model.flow_model",
    "cell_species": "omatg_ray.crystal.formula",
    "evaluate": "omatg_ray.commands.measure",
    "group_advantages": "omatg_ray.rl.advantage",
    "plan_iteration": "omatg_ray.rl.work",
    "policy_model": "omatg_ray.train.build",
    "pretrain": "omatg_ray.commands.pretrain",
    "rank": "omatg_ray.commands.rank",
    "read_dataset": "omatg_ray.crystal.read",
    "relax": "omatg_ray.commands.relax",
    "run_item": "omatg_ray.rl.work",
    "search": "omatg_ray.commands.search",
    "train": "omatg_ray.commands.train",
    "write_crystals": "omatg_ray.commands.write_crystals",
}

_RENAMED = {"LinearAnnealing": "LinearSchedule"}
"""Former public names and their current ones."""

# Runs before any other module of this package and before PyTorch, in actors too.
limit_spinning()

__all__ = list(_HOMES)


# In actors, too, this runs before anything else is imported.
name_home()


class _Callable(ModuleType):
    """A folder of the package that has the name of a public function: `train`, `evaluate`.

    Importing the folder puts it where users look for the function, so calling it calls that.
    """

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._function(*arguments, **options)

    @property
    def _function(self) -> Any:
        name = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module(_HOMES[name]), name)

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self._function.__doc__

    @property
    def __signature__(self) -> Signature:
        from inspect import signature

        return signature(self._function)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOMES and isinstance(value, ModuleType):
            value.__class__ = _Callable
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        warnings.warn(f"omatg_ray.{name} is now {_RENAMED[name]}; the old name still works", stacklevel=2)
        name = _RENAMED[name]
    if name not in _HOMES:
        raise AttributeError(f"module 'omatg_ray' has no attribute {name!r}")
    found = getattr(importlib.import_module(_HOMES[name]), name)
    # The import may have put a folder of that name here.
    return globals().get(name, found)
