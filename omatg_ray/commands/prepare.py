"""A reinforcement run put together from its configuration."""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import dataclass

from omatg_ray.bundle import place_of
from omatg_ray.commands.setup import base_run_data, driver_device, load_splits, set_threads, warn_unfamiliar
from omatg_ray.config import Config
from omatg_ray.crystal.split import Split
from omatg_ray.errors import ConfigError
from omatg_ray.model import FlowModel, ModelDescription
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.run.versions import versions


@dataclass(frozen=True)
class Parts:
    """What a run works with.

    Attributes:
        start: The sampler that is reinforced, as it was.
        model: The sampler that training updates in place.
        split: Crystals.
        reward: The reward, which also measures energies in evaluations.
    """

    start: FlowModel
    model: FlowModel
    split: Split
    reward: MatGLEnergy

    @property
    def compositions(self) -> list[list[int]]:
        """Atomic numbers of every training cell."""
        crystals = self.split.train.crystals
        return [z.tolist() for z in crystals.species.split(crystals.layout.sizes)]


def prepare(config: Config, progress: bool = False) -> Parts:
    """Loads the base, the crystals and the potential, and refuses early what could not run. Writes nothing.

    Raises:
        ConfigError: `base`, `reward.potential` or the crystals are not named; or the base acts on fields that the new
            policy would freeze.
        ModelError: The base cannot be read.
        DataError: The crystals cannot be read; or a bundled file is missing or damaged.
        PotentialError: The potential cannot be loaded or does not know an element of the crystals.
    """
    if config.base is None:
        raise ConfigError("base: name the model to reinforce (base=runs/..., or base=bundled)")
    if config.reward.potential is None:
        raise ConfigError("reward.potential: name a MatGL potential, the folder of one, or bundled")
    warn_idle(config)
    set_threads(config.threads)
    device = driver_device(config.device, config.ray)
    start = FlowModel.load(config.base, device)
    data = config.data
    if data.file is None and data.train is None:
        data = base_run_data(config.base) or data
    split = load_splits(data, progress)
    reward = MatGLEnergy(
        config.reward.potential,
        invalid_energy=config.reward.invalid_energy,
        device=device,
        chunk_edges=config.reward.chunk_edges,
    )
    reward.require_elements(split.train.elements | split.val.elements | split.test.elements)
    warn_unfamiliar(start, split.train.elements, split.train.sizes)
    start.network.require(split.train.elements | split.val.elements | split.test.elements)
    return Parts(start, reinforced(start, config, reward), split, reward)


def reinforced(start: FlowModel, config: Config, reward: MatGLEnergy) -> FlowModel:
    """The model that training updates in place: the start's network, copied, over the start's frozen base.

    Raises:
        ConfigError: The start was reinforced on other fields.
    """
    acts_on = start.description.active
    if acts_on and set(acts_on) != set(config.policy.active):
        # A field that is dropped would fall back to the base, one that is added would leave it before any update.
        raise ConfigError(
            f"policy.active: {config.base} was reinforced on {', '.join(acts_on)}; name exactly these fields to go on "
            "from it, or start from its base"
        )
    description = start.description.model_copy(
        update={
            "active": list(config.policy.active),
            "noise": {field: config.policy.noise[field] for field in config.policy.active},
            "annealing": config.policy.annealing or start.description.annealing,
            "potential": config.resolved().reward.potential,
            "provenance": {
                "command": "train",
                "base": None if config.base is None else place_of(config.base),
                "base_provenance": start.description.provenance,
                "seed": config.seed,
                "potential_fingerprint": reward.potential.fingerprint,
                "versions": versions(),
            },
        }
    )
    return FlowModel(ModelDescription.model_validate(description), start.base_network, copy.deepcopy(start.network))


def warn_idle(config: Config) -> None:
    """Warns of rollout workers that never have anything to do."""
    rollout, workers = config.rollout, config.ray.rollout.workers
    items = math.ceil(rollout.groups / rollout.groups_per_item)
    if items < workers:
        mend = "lower rollout.groups_per_item" if rollout.groups_per_item > 1 else "raise rollout.groups"
        warnings.warn(
            f"{workers - items} of {workers} rollout workers have nothing to do: an iteration has {items} items of up "
            f"to {rollout.groups_per_item} groups; {mend}, or take fewer workers",
            stacklevel=2,
        )
