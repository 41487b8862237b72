"""The components of a reinforcement run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from omatg_ray.config import Config
from omatg_ray.crystal.split import Split
from omatg_ray.errors import ConfigError
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.reward.build import Scorers
from omatg_ray.reward.weighted import Weighted
from omatg_ray.rl.flow_matching import TrainingCrystals
from omatg_ray.rl.replay import Ranked, Replay


@dataclass(frozen=True)
class RunComponents:
    """The components of a reinforcement run.

    Attributes:
        start: The sampler to reinforce, in its initial state.
        model: The sampler that training updates in place.
        split: Crystals.
        scorers: The reward, and the energies of evaluations.
        compositions: Atomic numbers of every cell to sample.
    """

    start: FlowModel
    model: FlowModel
    split: Split
    scorers: Scorers
    compositions: list[list[int]]

    @property
    def reward(self) -> Weighted:
        """The reward that training maximises."""
        assert self.scorers.reward is not None
        return self.scorers.reward

    def training_crystals(self, config: Config) -> TrainingCrystals | None:
        """Return the crystals whose flow is matched, or None if `objective.flow_matching` asks for none."""
        matching = config.objective.flow_matching
        return None if matching is None else self.take_training_crystals(matching.crystals, config.seed)

    def take_training_crystals(self, count: int, seed: int) -> TrainingCrystals:
        """Return the training crystals as ends of the flow, of which an iteration takes `count`."""
        description = self.model.description
        return TrainingCrystals(
            self.split.train.crystals,
            description.base_distribution,
            description.paths,
            description.acts_from,
            count,
            seed,
        )

    def known_energies(self, config: Config) -> Tensor | None:
        """Return the energies (B,) in eV/atom that rank the training crystals, or None if their rewards do.

        Raises:
            ConfigError: The file of the training crystals has no such column, or no number in some row.
        """
        replay, train = config.objective.replay, self.split.train
        if replay is None or replay.energies is None:
            return None
        values = [row.get(replay.energies) for row in train.properties]
        wrong = [row for row, value in enumerate(values) if not _is_number(value)]
        if wrong:
            raise ConfigError(
                f"objective.replay.energies: {len(wrong)} of {len(train)} training crystals have no number as "
                f"{replay.energies!r}, for example {train.ids[wrong[0]]} ({values[wrong[0]]!r}); name another column, "
                "or leave it out to rank by the reward"
            )
        return torch.tensor([float(value) for value in values if value is not None], dtype=torch.float64)

    def replay(self, config: Config) -> Replay | None:
        """Return an empty store of the best crystals known and found, or None if `objective.replay` asks for none."""
        settings, description = config.objective.replay, self.model.description
        if settings is None:
            return None
        energies = self.known_energies(config)
        ranked = None if energies is None else Ranked(self.split.train.crystals, energies)
        return Replay(
            settings, description.base_distribution, description.paths, description.acts_from, config.seed, ranked
        )


def _is_number(value: object) -> bool:
    """Return whether a value of a file is a finite number, or text of one."""
    try:
        return math.isfinite(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
