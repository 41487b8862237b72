"""Workload of the speed benchmarks: real compositions, a model to reinforce, and its iterations in one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from products import CLOCKS, finish

from omatg_ray.assets import crystals
from omatg_ray.crystal.fields import FieldName
from omatg_ray.crystal.read import read_dataset
from omatg_ray.errors import DataError
from omatg_ray.flow.settings import Precision
from omatg_ray.model.flow_model import FlowModel, new_modules
from omatg_ray.policy.settings import NoiseSettings
from omatg_ray.reward.protocol import Reward
from omatg_ray.rl.advantage import group_advantages
from omatg_ray.rl.learner import Learner
from omatg_ray.rl.rollout import Trajectory
from omatg_ray.rl.scoring import distances_of, rewards_of, score_item
from omatg_ray.rl.settings import AdvantageSettings, FieldWeights, LearnerSettings, ObjectiveSettings, RolloutSettings
from omatg_ray.rl.work import WorkItem, plan_iteration, run_item
from omatg_ray.run.location import PROTOTYPES

# The published settings for velocities (docs/policies.md).
NOISE = {"pos": NoiseSettings(kind="sqrt", a=0.1668), "cell": NoiseSettings(kind="constant", a=0.2)}
CLIP, POLICY_WEIGHT, LEARNING_RATE, GRAD_CLIP = 0.28, 2.3, 1.2e-4, 1.0
# As published: rewards are not replaced by ranks.
PLAIN = AdvantageSettings(shaping="none")
MICROBATCH_PAIRS = LearnerSettings().microbatch_pairs


@dataclass(frozen=True)
class Size:
    """Size of one iteration.

    Attributes:
        atoms: Atoms per cell.
        groups: Compositions.
        members: Trajectories per composition.
        steps: Grid points, one more than network evaluations.
        epochs: PPO epochs.
        precision: Precision of the networks, in rollouts and in learning.
    """

    atoms: int = 5
    groups: int = 8
    members: int = 16
    steps: int = 50
    epochs: int = 2
    precision: Precision = "float32"

    @property
    def structures(self) -> int:
        return self.groups * self.members

    def __str__(self) -> str:
        return (
            f"{self.atoms} atoms, {self.groups} groups × {self.members}, {self.steps} points, {self.epochs} "
            f"epoch{'s' * (self.epochs > 1)}"
        )


@cache
def compositions(atoms: int) -> list[tuple[int, ...]]:
    """Return the atomic numbers of the crystals of bundled-prototypes with this many atoms.

    Raises:
        DataError: There are none.
    """
    packed = read_dataset(crystals("val", PROTOTYPES)).crystals
    cells = [tuple(cell.tolist()) for cell in packed.species.split(packed.layout.sizes) if len(cell) == atoms]
    if not cells:
        raise DataError(f"no bundled crystal has {atoms} atoms; some have {sorted(set(packed.layout.sizes))}")
    return cells


def plan(
    size: Size, iteration: int, seed: int = 0, groups_per_item: int | None = None, steps: int | None = None
) -> list[WorkItem]:
    """Plan the items of an iteration over the compositions of a size; by default one item with the size's steps."""
    settings = RolloutSettings(
        groups=size.groups,
        group_size=size.members,
        steps=steps or size.steps,
        groups_per_item=groups_per_item or size.groups,
        precision=size.precision,
    )
    return plan_iteration(settings, compositions(size.atoms), iteration, seed)


def reinforced(base: FlowModel, active: Sequence[FieldName]) -> FlowModel:
    """Return a model that starts as its base, with these fields to reinforce."""
    noise = {field: NOISE[field] for field in active}
    description = base.description.model_copy(update={"active": list(active), "noise": noise})
    modules = new_modules(description)
    modules["policy"].load_state_dict(base.base_network.state_dict())
    return FlowModel(description, base.base_network, modules)


def objective(kl: float) -> ObjectiveSettings:
    """Return the published loss, with a weight for the KL divergence to the base."""
    policy = FieldWeights(pos=POLICY_WEIGHT, cell=POLICY_WEIGHT)
    return ObjectiveSettings(clip=CLIP, policy_weight=policy, kl_weight=FieldWeights(pos=kl, cell=kl))


def learner(
    model: FlowModel,
    kl: float,
    epochs: int,
    microbatch_pairs: int = MICROBATCH_PAIRS,
) -> Learner:
    """Return a learner of the model's policy."""
    settings = LearnerSettings(epochs=epochs, lr=LEARNING_RATE, grad_clip=GRAD_CLIP, microbatch_pairs=microbatch_pairs)
    return Learner(model.policy(), objective(kl), settings)


@dataclass(frozen=True)
class Timed:
    """Times of an iteration.

    Attributes:
        rollout: Seconds of x_0, random numbers and trajectories.
        reward: Seconds of the rewards.
        learn: Seconds of all epochs.
        reward_mean: Mean reward.
    """

    rollout: float
    reward: float
    learn: float
    reward_mean: float

    @property
    def iteration(self) -> float:
        return self.rollout + self.reward + self.learn


class Iterations:
    """Iterations in this process, as in `Trainer` with a `LocalTrainingBackend`, timed by the clock of the benchmark.

    Args:
        model: Model to reinforce.
        learns: Learner of its policy.
        reward: Reward.
        clock: See `CLOCKS`.
        advantage: How advantages follow from rewards.
        distances: Also compare the crystals of a group, for the diversity that every run logs, as part of the reward.
    """

    def __init__(
        self,
        model: FlowModel,
        learns: Learner,
        reward: Reward,
        clock: str,
        advantage: AdvantageSettings = PLAIN,
        distances: bool = False,
    ) -> None:
        self.model, self.learner, self.reward = model, learns, reward
        self.advantage, self.distances = advantage, distances
        self._clock = CLOCKS[clock]

    def iterate(self, items: Sequence[WorkItem]) -> Timed:
        """Do one iteration over these items."""
        begun = self._now()
        trajectories = [self.rollout(item) for item in items]
        rolled = self._now()
        scored = [
            score_item(trajectory.final(), self.reward, item.group_size if self.distances else 1)
            for item, trajectory in zip(items, trajectories, strict=True)
        ]
        seen = self._now()
        rewards = rewards_of(items, scored)
        advantages = group_advantages(rewards, self.advantage, distances_of(scored))
        counted = advantages.counted.flatten().nonzero().squeeze(1)
        if len(counted):
            self.learner.update(Trajectory.cat(trajectories).select(counted), advantages.values.flatten()[counted])
        return Timed(rolled - begun, seen - rolled, self._now() - seen, float(rewards.nanmean()))

    def rollout(self, item: WorkItem) -> Trajectory:
        """Roll out the trajectories of an item."""
        policy = self.learner.policy
        with_base = self.learner.objective.needs_base(policy)
        return run_item(item, policy, self.model.description.base_distribution, with_base, self.model.device)

    def _now(self) -> float:
        finish(self.model.device)
        return self._clock()
