"""Import of any OMatG checkpoint: a base model or a reinforced one."""

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
    """Build a model from a Lightning checkpoint of OMatG and its configuration.

    Args:
        checkpoint: The .ckpt file.
        config: The .yaml file it was trained with, of OMatG or, for a reinforced model, of OMatG-IRL.
        base: Base model of a reinforced model; None if the checkpoint is a base model.
        data: Training crystals of a base model, which define the elements and cell sizes it knows.
        progress: Show a progress bar while reading them.
        find_data: Without `data`, use the file that the configuration names, if it exists in the working directory or
            beside the configuration.

    Raises:
        ModelError: A file cannot be read, is not OMatG's, does not fit the other, or generates in a way that is not
            supported.
        DataError: The training crystals cannot be read.
    """
    tree = read_configuration(config)
    loaded = read_checkpoint(checkpoint)
    if not any(name.startswith((ENCODER, SCHEDULE)) for name in loaded.state):
        raise ModelError(f"{checkpoint} is not an OMatG checkpoint: no tensor's name starts with {ENCODER}")
    if is_reinforced(tree):
        if base is None:
            raise ModelError(
                f"{config} is a configuration of OMatG-IRL, whose checkpoint lacks the base model: import the base "
                "model first and name it with --base"
            )
        return import_reinforced(loaded, tree, base)
    parts = [prefix for prefix in (SCHEDULE, NOISE) if any(name.startswith(prefix) for name in loaded.state)]
    if parts:
        raise ModelError(
            f"{checkpoint} is a reinforced model (it has {parts[0]}...): give the configuration of its "
            "reinforcement, and its base model with --base"
        )
    if base is not None:
        raise ModelError(f"{config} is the configuration of a base model; --base is only for reinforced models")
    file = data or (training_file(tree, config) if find_data else None)
    crystals = None if file is None else read_dataset(file, reduce=False, progress=progress)
    imported = import_base(loaded, tree, crystals)
    imported.notes.append(
        "treated as a base model: velocity and score checkpoints of OMatG-IRL have tensors of the same names, so if it "
        "is one of these, import it with the configuration of its reinforcement and --base instead"
    )
    if data is None and file is not None:
        imported.notes.append(f"elements and cell sizes of its training set were read from {file}")
    return imported
