"""Checkpoints of a reinforcement run: the model, the optimizer, and the progress of the run."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from omatg_ray.errors import ConfigError, ModelError
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.schedule import save_schedule
from omatg_ray.policy.schedule import LearnedSchedule
from omatg_ray.run.atomic import replace_folder
from omatg_ray.run.folder import RunFolder

LEARNER_FILE, REPLAY_FILE, STATE_FILE = "learner.safetensors", "replay.safetensors", "state.json"


@dataclass(frozen=True)
class Progressed:
    """The progress of a run.

    Attributes:
        iteration: Number of finished iterations.
        best: Lowest validation score so far (energy, or minus the reward); infinite if no score was a number.
        learner: The learner's state.
        replay: The best crystals known and found (`rl.replay.Replay`); empty without a replay.
    """

    iteration: int
    best: float
    learner: dict[str, Tensor]
    replay: dict[str, Tensor] = field(default_factory=dict)


def name_of(iteration: int) -> str:
    """Return the name of the checkpoint after this many iterations."""
    return f"iteration_{iteration:06d}"


def iteration_of(name: str) -> int:
    """Return the number of iterations in a checkpoint's name; the inverse of `name_of`."""
    return int(name.rpartition("_")[2])


def save(folder: RunFolder, model: FlowModel, progressed: Progressed, keep: int, is_best: bool) -> None:
    """Write a checkpoint at the current iteration boundary; for the best one, save its learned schedule separately too.

    Args:
        folder: Run folder.
        model: The sampler.
        progressed: The progress of the run.
        keep: Number of checkpoints to keep besides best and last.
        is_best: Whether this checkpoint has the best score.
    """
    name = name_of(progressed.iteration)
    folder.save_checkpoint(name, lambda path: write_state(path, model, progressed, is_best), keep)
    if is_best:
        folder.point_best(name)
        if model.variant.learns_schedule and isinstance(model.schedule, LearnedSchedule):
            with replace_folder(folder.schedule) as path:
                save_schedule(model.schedule, path, {"iteration": progressed.iteration} | model.description.provenance)
    folder.store()


def write_state(path: Path, model: FlowModel, progressed: Progressed, is_best: bool) -> None:
    """Write everything needed to resume a run into a folder."""
    model.save(path)
    save_file(progressed.learner, path / LEARNER_FILE)
    if progressed.replay:
        save_file(progressed.replay, path / REPLAY_FILE)
    best = progressed.best if math.isfinite(progressed.best) else None
    state = {"iteration": progressed.iteration, "best": best, "is_best": is_best}
    (path / STATE_FILE).write_text(json.dumps(state) + "\n")


# Entries of a description that identify the model, each with the key that decides it.
IDENTITY = (
    ("network", "base"), ("paths", "base"), ("base_distribution", "base"), ("variant", "policy.variant"),
    ("active", "policy.active"),
    ("noise", "policy.noise"), ("acts_from", "policy.acts_from"),
    ("schedule", "policy.fixed_schedule, schedule_from or learned_schedule"),
)  # fmt: skip


def restore(folder: RunFolder, checkpoint: Path, model: FlowModel) -> Progressed:
    """Restore the sampler from a checkpoint, and return the progress of the run.

    Raises:
        ModelError: The checkpoint has another network or base distribution, or acts on other fields.
        ConfigError: It sampled other cells, was rewarded or monitored by another potential, or with other files.
    """
    done, was_best = read_state(checkpoint, model)
    if was_best:
        # If the process was killed after writing the checkpoint but before pointing to it, the best one would be lost.
        folder.point_best(checkpoint.name)
    folder.mend_pointers(checkpoint, marked_best)
    return done


def read_state(checkpoint: Path, model: FlowModel, may_differ: Collection[str] = ()) -> tuple[Progressed, bool]:
    """Restore the sampler from a checkpoint.

    Args:
        checkpoint: Its folder.
        model: The sampler.
        may_differ: Names from `IDENTITY` that may differ.

    Returns:
        The progress of the run, and whether the checkpoint was the best when it was written.

    Raises:
        ModelError: As `restore`.
        ConfigError: As `restore`.
    """
    stored = FlowModel.load(checkpoint, model.device)
    for what, key in IDENTITY:
        if what not in may_differ and getattr(stored.description, what) != getattr(model.description, what):
            raise ModelError(f"{checkpoint} was made with another {what}; leave {key} as it was to resume from it")
    _refuse_other_inputs(checkpoint, stored, model)
    # The base too: the best checkpoint of its run may have changed since.
    model.base_network.load_state_dict(stored.base_network.state_dict())
    model.learned.load_state_dict(stored.learned.state_dict())
    state = json.loads((checkpoint / STATE_FILE).read_text())
    best = math.inf if state["best"] is None else state["best"]
    replay = load_file(checkpoint / REPLAY_FILE) if (checkpoint / REPLAY_FILE).exists() else {}
    done = Progressed(state["iteration"], best, load_file(checkpoint / LEARNER_FILE), replay)
    return done, bool(state["is_best"])


def marked_best(checkpoint: Path) -> bool:
    """Return whether a checkpoint was the best when it was written."""
    return bool(json.loads((checkpoint / STATE_FILE).read_text())["is_best"])


def _refuse_other_inputs(checkpoint: Path, stored: FlowModel, model: FlowModel) -> None:
    """Refuse a checkpoint made with other cells, reward files or weights of potentials.

    A folder may hold other weights by now, and `bundled` may mean others in another release.
    """
    (old, old_cells), (new, new_cells) = (
        [m.description.provenance.get(what) for what in ("reward_files", "compositions")] for m in (stored, model)
    )
    if old_cells != new_cells:
        raise ConfigError(
            f"compositions: {checkpoint} sampled other cells than these; name those it started with (the file may have "
            "changed), or start a new run"
        )
    if old != new:
        raise ConfigError(
            f"reward: {checkpoint} was rewarded with other reference files (reward.hull, reward.crmse) or other code "
            "(reward.custom) than these; name the ones it started with, or start a new run"
        )
    old, new = (m.description.provenance.get("second_fingerprint") for m in (stored, model))
    if old != new:
        raise ConfigError(
            f"reward.second_potential: {checkpoint} was monitored by one with weights {old}, not {new}; name the one "
            "it started with, or start a new run"
        )
    old, new = (m.description.provenance.get("potential_fingerprint") for m in (stored, model))
    if old != new:
        raise ConfigError(
            f"reward.potential: {checkpoint} was rewarded by {stored.description.potential} with weights {old}, but "
            f"{model.description.potential} now has weights {new}; name the one it started with "
            "(reward.potential=FOLDER; what version 0.1 called `bundled` is bundled-prototypes, as base and schedule, "
            "too; otherwise what was bundled comes with the release in versions.json), or start a new run"
        )
