"""Reinforcement learning for flow-based crystal generators: policy gradients on their velocity fields.

    import omatg_ray as og

    model = og.FlowModel.load("runs/better")
    crystals = model.sample(["BaTiO3"] * 8, steps=50, seed=0)

The names below are the public API. Each is imported on first use, so that `import omatg_ray` is fast.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from omatg_ray.run.home import name_home
from omatg_ray.run.openmp import limit_spinning

if TYPE_CHECKING:
    from omatg_ray.commands.pretrain import pretrain as pretrain
    from omatg_ray.commands.train import train as train
    from omatg_ray.config import Config as Config
    from omatg_ray.crystal.batch import CrystalBatch as CrystalBatch
    from omatg_ray.crystal.read import read_dataset as read_dataset
    from omatg_ray.errors import OmatgRayError as OmatgRayError
    from omatg_ray.model.flow_model import FlowModel as FlowModel
    from omatg_ray.model.flow_model import bundled_model as bundled_model
    from omatg_ray.policy.hand_made import LinearSchedule as LinearSchedule
    from omatg_ray.reward.energy import MatGLEnergy as MatGLEnergy

_HOMES = {
    "Config": "omatg_ray.config",
    "CrystalBatch": "omatg_ray.crystal.batch",
    "FlowModel": "omatg_ray.model.flow_model",
    "LinearSchedule": "omatg_ray.policy.hand_made",
    "MatGLEnergy": "omatg_ray.reward.energy",
    "OmatgRayError": "omatg_ray.errors",
    "bundled_model": "omatg_ray.model.flow_model",
    "pretrain": "omatg_ray.commands.pretrain",
    "read_dataset": "omatg_ray.crystal.read",
    "train": "omatg_ray.commands.train",
}

_RENAMED = {"LinearAnnealing": "LinearSchedule"}
"""Former public names and their current ones."""

# Runs before any other module of this package and before PyTorch, in actors too.
limit_spinning()

__all__ = list(_HOMES)


# In actors, too, this runs before anything else is imported.
name_home()


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        warnings.warn(f"omatg_ray.{name} is now {_RENAMED[name]}; the old name still works", stacklevel=2)
        name = _RENAMED[name]
    if name not in _HOMES:
        raise AttributeError(f"module 'omatg_ray' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
