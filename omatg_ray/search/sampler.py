"""The sampler of a search: random crystals, a model as it is, or one that learns from what was found.

The network that acts at the start of a trajectory, where the polymorph is decided, learns: the base of a model that was
reinforced to act later, else the network of the model. Its flow is matched to the lowest crystals found of each cell.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import ConfigError, ModelError
from omatg_ray.evaluate.backend import CrystalGenerator
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.policy.drift import annealed_velocity
from omatg_ray.policy.policy import Policy
from omatg_ray.policy.settings import NoiseSettings
from omatg_ray.rl.learner import Learner
from omatg_ray.rl.replay import Best, Replay, as_tensors, from_tensors
from omatg_ray.rl.settings import REPLAY, FieldWeights, LearnerSettings, ObjectiveSettings, ReplaySettings
from omatg_ray.run.optimizer_state import flatten_optimizer, restore_optimizer
from omatg_ray.search.random_crystals import RandomCrystals
from omatg_ray.search.restarts import Restarts


@dataclass(frozen=True, kw_only=True)
class Learning:
    """How the sampler learns between rounds.

    Attributes:
        updates: Updates after each round.
        lr: Learning rate of Adam.
        crystals: Examples of an update.
        keep: Distinct crystals kept of each cell, the lowest ones.
        temperature: T in eV/atom of the weights exp(−E / T) with which they are drawn.
        period: Of so many samples of a cell, the first is of the model as it was given (explores), the second restarts
            from a crystal that is kept (`Restarts`), and the others are of the model that has learned so far.
    """

    updates: int = 20
    lr: float = 1e-4
    crystals: int = 32
    keep: int = 4
    temperature: float = 0.05
    period: int = 4


class FixedSampler:
    """A model as it is.

    Args:
        start: The model.
        seed: Seed of the search.
    """

    def __init__(self, start: FlowModel, seed: int) -> None:
        self.start, self.seed = start, seed

    @property
    def model(self) -> FlowModel:
        """Return the sampler as it is now."""
        return self.start

    def models(self, turns: Sequence[int]) -> list[tuple[CrystalGenerator, list[int]]]:
        """Return which model makes which samples; what is learned later does not change these models.

        Args:
            turns: Number of each sample among those of its cell, from 0.

        Returns:
            Models, or what stands in for them, with the rows of their samples.
        """
        return [(self.start, list(range(len(turns))))]

    def take(self, crystals: CrystalBatch, energy: Tensor) -> None:
        """Take note of relaxed crystals, and of their energies (B,) in eV/atom."""

    def learn(self) -> None:
        """Learn from what was taken, if this sampler learns.

        Raises:
            TrainingError: The loss of an update is not finite.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """Return what was learned, as tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ModelError: It belongs to another network.
        """


class RandomSampler(FixedSampler):
    """Random crystals (`RandomCrystals`); no model is asked."""

    def models(self, turns: Sequence[int]) -> list[tuple[CrystalGenerator, list[int]]]:
        return [(RandomCrystals(), list(range(len(turns))))]


class LearningSampler(FixedSampler):
    """A model that learns from what it finds.

    Args:
        start: The model to begin with.
        seed: Seed of the search.
        learning: How it learns.

    Raises:
        ConfigError: The flow of this model is not trained here.
    """

    def __init__(self, start: FlowModel, seed: int, learning: Learning | None = None) -> None:
        super().__init__(start, seed)
        self.learning = learning = Learning() if learning is None else learning
        description = start.description
        try:
            description.paths.refuse_untrainable()
        except ValueError as error:
            raise ConfigError(
                f"method: the flow of this model is not trained here ({error}), so it cannot be reinforced; --method "
                "sample takes it as it is"
            ) from error
        base, learned = copy.deepcopy(start.base_network), copy.deepcopy(start.learned)
        self._model = FlowModel(description, base, learned)
        of_policy = bool("policy" in learned and not description.acts_from)
        network = self._model.network if of_policy else base
        network.requires_grad_(True)
        replay = ReplaySettings(
            crystals=learning.crystals,
            known=False,
            keep=learning.keep,
            temperature=learning.temperature,
            weight=FieldWeights(pos=1.0, cell=0.05),
        )
        self.replay = Replay(replay, description.base_distribution, description.paths, 0.0, seed)
        quiet = NoiseSettings(kind="constant", a=1.0)  # of policies, which flow matching does without
        policy = Policy(annealed_velocity(None), network, network, ["pos", "cell"], {"pos": quiet, "cell": quiet})
        self.learner = Learner(
            policy, ObjectiveSettings(replay=replay), LearnerSettings(epochs=learning.updates, lr=learning.lr)
        )
        self.rounds = 0
        self._taken: list[Best] = []

    @property
    def model(self) -> FlowModel:
        return self._model

    def models(self, turns: Sequence[int]) -> list[tuple[CrystalGenerator, list[int]]]:
        rows: list[list[int]] = [[], [], []]
        for row, turn in enumerate(turns):
            rows[min(turn % self.learning.period, 2)].append(row)
        restarts = Restarts(self.start, self.replay.kept, self.learning.temperature)
        # A copy, as what is learned later may not change what makes a round.
        makers: tuple[CrystalGenerator, ...] = (self.start, restarts, copy.deepcopy(self._model))
        return [(maker, of) for maker, of in zip(makers, rows, strict=True) if of]

    def take(self, crystals: CrystalBatch, energy: Tensor) -> None:
        # Restarts of a round that is being worked on do not know it yet, also if that round is begun again on resume.
        self._taken.append(Best(crystals.to("cpu", torch.float32), -energy.double()))

    def learn(self) -> None:
        self.replay.add(self._taken)
        self._taken = []
        if not len(self.replay):
            return
        turns = range(self.rounds * self.learning.updates, (self.rounds + 1) * self.learning.updates)
        examples = [self.replay.examples(turn).to(self._model.device) for turn in turns]
        self.learner.update(None, None, examples={REPLAY: examples})
        self.rounds += 1

    def state_dict(self) -> dict[str, Tensor]:
        parts = {
            "base": self._model.base_network.state_dict(),
            "learned": self._model.learned.state_dict(),
            "replay": self.replay.state_dict(),
            "optimizer": flatten_optimizer(self.learner.optimizer),
        }
        if self._taken:
            parts["taken"] = as_tensors(self._taken)
        state = {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}
        return state | {"rounds": torch.tensor(self.rounds)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        names = ("base", "learned", "replay", "optimizer", "taken")
        parts: dict[str, dict[str, Tensor]] = {name: {} for name in names}
        for key, value in state.items():
            part, _, name = key.partition("/")
            if name:
                parts[part][name] = value
        try:
            self._model.base_network.load_state_dict(parts["base"])
            self._model.learned.load_state_dict(parts["learned"])
        except RuntimeError as error:
            raise ModelError(f"the state of the search belongs to another network: {error}") from error
        self.replay.load_state_dict(parts["replay"])
        self._taken = [from_tensors(parts["taken"])] if parts["taken"] else []
        restore_optimizer(self.learner.optimizer, parts["optimizer"])
        self.rounds = int(state["rounds"])
