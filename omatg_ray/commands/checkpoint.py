"""Checkpoints of a reinforcement run: the model, the optimizer, and where the run stands."""

from __future__ import annotations

import json
import math
from pathlib import Path

from safetensors.torch import load_file, save_file

from omatg_ray.commands.prepare import Parts
from omatg_ray.errors import ModelError
from omatg_ray.model import FlowModel
from omatg_ray.run.folder import RunFolder

LEARNER_FILE, STATE_FILE = "learner.safetensors", "state.json"


def save(folder: RunFolder, parts: Parts, keep: int, best: float, is_best: bool) -> None:
    """Writes a checkpoint at the present iteration boundary.

    Args:
        folder: Where.
        parts: The run.
        keep: Checkpoints that stay besides best and last.
        best: Lowest validation score so far.
        is_best: Whether this checkpoint has it.
    """
    iteration = parts.trainer.iteration

    def write(path: Path) -> None:
        parts.model.save(path)
        save_file({k: v.cpu().contiguous() for k, v in parts.trainer.learner.state_dict().items()}, path / LEARNER_FILE)
        state = {"iteration": iteration, "best": best if math.isfinite(best) else None, "is_best": is_best}
        (path / STATE_FILE).write_text(json.dumps(state) + "\n")

    name = f"iteration_{iteration:06d}"
    folder.save_checkpoint(name, write, keep)
    if is_best:
        folder.point_best(name)


def restore(folder: RunFolder, checkpoint: Path, parts: Parts) -> float:
    """Puts the run back where a checkpoint left it; returns the best score so far.

    Raises:
        ModelError: The checkpoint has another network or acts on other fields.
    """
    model, trainer = parts.model, parts.trainer
    stored = FlowModel.load(checkpoint, trainer.device)
    for what, key in (("network", "base"), ("active", "policy.active")):
        if getattr(stored.description, what) != getattr(model.description, what):
            raise ModelError(f"{checkpoint} was made with another {what}; leave {key} as it was to go on with it")
    # The base too: its run may have found a better one since.
    model.base_network.load_state_dict(stored.base_network.state_dict())
    model.network.load_state_dict(stored.network.state_dict())
    trainer.learner.load_state_dict(load_file(checkpoint / LEARNER_FILE))
    state = json.loads((checkpoint / STATE_FILE).read_text())
    trainer.iteration = state["iteration"]
    if state["is_best"]:
        # A kill between writing a checkpoint and pointing to it would lose the best one for good.
        folder.point_best(checkpoint.name)
    return math.inf if state["best"] is None else state["best"]
