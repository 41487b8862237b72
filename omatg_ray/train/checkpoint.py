"""Checkpoints of a reinforcement run: the model, the optimizer, and where the run stands."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from omatg_ray.errors import ConfigError, ModelError
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.schedule import save_schedule
from omatg_ray.policy.schedule import LearnedSchedule
from omatg_ray.run.atomic import replace_folder
from omatg_ray.run.folder import RunFolder

LEARNER_FILE, STATE_FILE = "learner.safetensors", "state.json"


@dataclass(frozen=True)
class Progressed:
    """How far a run has come.

    Attributes:
        iteration: Iterations that are done.
        best: Lowest validation score so far (energy, or minus the reward); infinite where no score was a number.
        learner: The learner's state.
    """

    iteration: int
    best: float
    learner: dict[str, Tensor]


def name_of(iteration: int) -> str:
    """Name of the checkpoint after so many iterations."""
    return f"iteration_{iteration:06d}"


def iteration_of(name: str) -> int:
    """Inverse of `name_of`."""
    return int(name.rpartition("_")[2])


def save(folder: RunFolder, model: FlowModel, progressed: Progressed, keep: int, is_best: bool) -> None:
    """Writes a checkpoint at the present iteration boundary; of the best one its learned schedule by itself, too.

    Args:
        folder: Where.
        model: The sampler.
        progressed: Where the run stands.
        keep: Checkpoints that stay besides best and last.
        is_best: Whether this checkpoint has the best score.
    """
    name = name_of(progressed.iteration)
    folder.save_checkpoint(name, lambda path: write_state(path, model, progressed, is_best), keep)
    if is_best:
        folder.point_best(name)
        if model.variant.learns_schedule and isinstance(model.schedule, LearnedSchedule):
            with replace_folder(folder.schedule) as place:
                save_schedule(model.schedule, place, {"iteration": progressed.iteration} | model.description.provenance)
    folder.store()


def write_state(path: Path, model: FlowModel, progressed: Progressed, is_best: bool) -> None:
    """Writes all that a run goes on from into a folder."""
    model.save(path)
    save_file(progressed.learner, path / LEARNER_FILE)
    best = progressed.best if math.isfinite(progressed.best) else None
    state = {"iteration": progressed.iteration, "best": best, "is_best": is_best}
    (path / STATE_FILE).write_text(json.dumps(state) + "\n")


# What of a description makes it another model, and the key that decides it.
IDENTITY = (
    ("network", "base"), ("paths", "base"), ("base_distribution", "base"), ("variant", "policy.variant"),
    ("active", "policy.active"),
    ("noise", "policy.noise"), ("schedule", "policy.fixed_schedule, schedule_from or learned_schedule"),
)  # fmt: skip


def restore(folder: RunFolder, checkpoint: Path, model: FlowModel) -> Progressed:
    """Puts the sampler back to where a checkpoint left it, and says where the run stood.

    Raises:
        ModelError: The checkpoint has another network or base distribution, or acts on other fields.
        ConfigError: It was rewarded or monitored by another potential, or rewarded with other files.
    """
    done, was_best = read_state(checkpoint, model)
    if was_best:
        # A kill between writing a checkpoint and pointing to it would lose the best one for good.
        folder.point_best(checkpoint.name)
    folder.mend_pointers(checkpoint, marked_best)
    return done


def read_state(checkpoint: Path, model: FlowModel, may_differ: Collection[str] = ()) -> tuple[Progressed, bool]:
    """Puts the sampler back to where a checkpoint left it.

    Args:
        checkpoint: Its folder.
        model: The sampler.
        may_differ: What of `IDENTITY` may be another.

    Returns:
        Where the run stood, and whether the checkpoint was the best when it was written.

    Raises:
        ModelError: As `restore`.
        ConfigError: As `restore`.
    """
    stored = FlowModel.load(checkpoint, model.device)
    for what, key in IDENTITY:
        if what not in may_differ and getattr(stored.description, what) != getattr(model.description, what):
            raise ModelError(f"{checkpoint} was made with another {what}; leave {key} as it was to go on with it")
    _refuse_other_potential(checkpoint, stored, model)
    # The base too: its run may have found a better one since.
    model.base_network.load_state_dict(stored.base_network.state_dict())
    model.learned.load_state_dict(stored.learned.state_dict())
    state = json.loads((checkpoint / STATE_FILE).read_text())
    best = math.inf if state["best"] is None else state["best"]
    return Progressed(state["iteration"], best, load_file(checkpoint / LEARNER_FILE)), bool(state["is_best"])


def marked_best(checkpoint: Path) -> bool:
    """Whether a checkpoint was the best when it was written."""
    return bool(json.loads((checkpoint / STATE_FILE).read_text())["is_best"])


def _refuse_other_potential(checkpoint: Path, stored: FlowModel, model: FlowModel) -> None:
    """A folder may hold other weights by now, and the word `bundled` stands for others in another release."""
    old, new = (one.description.provenance.get("reward_files") for one in (stored, model))
    if old != new:
        raise ConfigError(
            f"reward: {checkpoint} was rewarded with other reference files (reward.hull, reward.crmse) or other code "
            "(reward.custom) than these; name the ones it started with, or start a new run"
        )
    old, new = (one.description.provenance.get("second_fingerprint") for one in (stored, model))
    if old != new:
        raise ConfigError(
            f"reward.second_potential: {checkpoint} was monitored by one with weights {old}, not {new}; name the one "
            "it started with, or start a new run"
        )
    old, new = (one.description.provenance.get("potential_fingerprint") for one in (stored, model))
    if old != new:
        raise ConfigError(
            f"reward.potential: {checkpoint} was rewarded by {stored.description.potential} with weights {old}, but "
            f"{model.description.potential} now has weights {new}; name the one it started with "
            "(reward.potential=FOLDER; what was bundled comes with the release in versions.json), or start a new run"
        )
