"""What the benchmarks of speed work on: real compositions, a model to reinforce, and iterations of it in one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from omatg_ray.bundle import crystals
from omatg_ray.crystal.fields import FieldName
from omatg_ray.crystal.read import read_dataset
from omatg_ray.errors import DataError
from omatg_ray.model import FlowModel, new_modules
from omatg_ray.policy.noise import NoiseSettings
from omatg_ray.reward.protocol import Reward
from omatg_ray.rl.advantage import AdvantageSettings
from omatg_ray.rl.crew import LocalCrew
from omatg_ray.rl.learner import Learner, LearnerSettings
from omatg_ray.rl.objective import FieldWeights, ObjectiveSettings
from omatg_ray.rl.trainer import Trainer
from omatg_ray.rl.work import RolloutSettings

# The settings that the publication found for velocities (docs/policies.md).
NOISE = {"pos": NoiseSettings(kind="sqrt", a=0.1668), "cell": NoiseSettings(kind="constant", a=0.2)}
CLIP, POLICY_WEIGHT, LEARNING_RATE, GRAD_CLIP = 0.28, 2.3, 1.2e-4, 1.0
# As published: no ranks in place of rewards.
PLAIN = AdvantageSettings(shaping="none")
MICROBATCH_PAIRS = LearnerSettings().microbatch_pairs


@dataclass(frozen=True)
class Size:
    """One iteration.

    Attributes:
        atoms: Atoms per cell.
        groups: Compositions.
        members: Trajectories of each.
        steps: Grid points; one network evaluation fewer.
        epochs: PPO epochs.
    """

    atoms: int = 5
    groups: int = 8
    members: int = 16
    steps: int = 50
    epochs: int = 2

    @property
    def structures(self) -> int:
        return self.groups * self.members

    def __str__(self) -> str:
        return (
            f"{self.atoms} atoms, {self.groups} groups × {self.members}, {self.steps} points, {self.epochs} "
            f"epoch{'s' * (self.epochs > 1)}"
        )


def compositions(atoms: int) -> list[tuple[int, ...]]:
    """Atomic numbers of the bundled crystals with so many atoms.

    Raises:
        DataError: There are none.
    """
    packed = read_dataset(crystals("val")).crystals
    cells = [tuple(cell.tolist()) for cell in packed.species.split(packed.layout.sizes) if len(cell) == atoms]
    if not cells:
        raise DataError(f"no bundled crystal has {atoms} atoms; some have {sorted(set(packed.layout.sizes))}")
    return cells


def reinforced(base: FlowModel, active: Sequence[FieldName]) -> FlowModel:
    """A model that starts as its base does, of which reinforcement moves these fields."""
    noise = {field: NOISE[field] for field in active}
    description = base.description.model_copy(update={"active": list(active), "noise": noise})
    modules = new_modules(description)
    modules["policy"].load_state_dict(base.base_network.state_dict())
    return FlowModel(description, base.base_network, modules)


def objective(kl: float) -> ObjectiveSettings:
    """The published loss, with a weight for the KL divergence to the base."""
    policy = FieldWeights(pos=POLICY_WEIGHT, cell=POLICY_WEIGHT)
    return ObjectiveSettings(clip=CLIP, policy_weight=policy, kl_weight=FieldWeights(pos=kl, cell=kl))


def learner(model: FlowModel, kl: float, epochs: int, microbatch_pairs: int = MICROBATCH_PAIRS) -> Learner:
    """A learner of the model's policy."""
    settings = LearnerSettings(
        epochs=epochs, lr=LEARNING_RATE, grad_clip=GRAD_CLIP, microbatch_pairs=microbatch_pairs
    )
    return Learner(model.policy(), objective(kl), settings)


def trainer(
    model: FlowModel,
    learns: Learner,
    reward: Reward,
    size: Size,
    cells: Sequence[Sequence[int]],
    groups_per_item: int,
    iterations: int,
) -> Trainer:
    """Iterations in this process; `step` does one, and says what every stage took (`time_*`)."""
    base = model.description.base_distribution
    crew = LocalCrew(learns, model.learned, base, reward, model.device)
    rollout = RolloutSettings(
        groups=size.groups, group_size=size.members, steps=size.steps, groups_per_item=groups_per_item
    )
    return Trainer(rollout, cells, PLAIN, crew, seed=0, total=iterations)
