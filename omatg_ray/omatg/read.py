"""Import of any checkpoint of OMatG: a base model, or what was reinforced from one."""

from __future__ import annotations

from pathlib import Path

from omatg_ray.crystal.read import read_dataset
from omatg_ray.errors import ModelError
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.omatg.base import Imported, import_base, training_file
from omatg_ray.omatg.checkpoint import read_checkpoint
from omatg_ray.omatg.configuration import read_configuration
from omatg_ray.omatg.reinforced import import_reinforced, is_reinforced
from omatg_ray.omatg.weights import ENCODER, NOISE, SCHEDULE


def import_omatg(
    checkpoint: Path,
    config: Path,
    base: FlowModel | None = None,
    data: Path | None = None,
    progress: bool = False,
    find_data: bool = True,
) -> Imported:
    """A model from a Lightning checkpoint of OMatG and its configuration.

    Args:
        checkpoint: The .ckpt file.
        config: The .yaml file that it was trained with: of OMatG, or of OMatG-IRL for what was reinforced.
        base: The base model of what was reinforced; None for a base model.
        data: Training crystals of a base model, which tell the elements and cell sizes it knows.
        progress: Show a progress bar while they are read.
        find_data: Without `data`, take the file that the configuration names, if it lies in the working directory or
            beside the configuration.

    Raises:
        ModelError: A file cannot be read, is not OMatG's, does not fit the other, or generates in a way that cannot be
            carried over.
        DataError: The training crystals cannot be read.
    """
    tree = read_configuration(config)
    found = read_checkpoint(checkpoint)
    if not any(name.startswith((ENCODER, SCHEDULE)) for name in found.state):
        raise ModelError(f"{checkpoint} is no checkpoint of OMatG: no tensor's name starts with {ENCODER}")
    if is_reinforced(tree):
        if base is None:
            raise ModelError(
                f"{config} is a configuration of reinforcement, whose checkpoint lacks the base model: import that "
                "first and name it with --base"
            )
        return import_reinforced(found, tree, base)
    parts = [prefix for prefix in (SCHEDULE, NOISE) if any(name.startswith(prefix) for name in found.state)]
    if parts:
        raise ModelError(
            f"{checkpoint} is of a reinforced model (it has {parts[0]}...): give the configuration of its "
            "reinforcement, and its base model with --base"
        )
    if base is not None:
        raise ModelError(f"{config} is the configuration of a base model; --base is for those of reinforcement")
    file = data or (training_file(tree, config) if find_data else None)
    crystals = None if file is None else read_dataset(file, reduce=False, progress=progress)
    imported = import_base(found, tree, crystals)
    imported.notes.append(
        "taken for a base model: velocity and score checkpoints of OMatG-IRL hold tensors of the same names, so if it "
        "is one of these, import it with the configuration of its reinforcement and --base instead"
    )
    if data is None and file is not None:
        imported.notes.append(f"elements and cell sizes of its training set: those of {file}")
    return imported
