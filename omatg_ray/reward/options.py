"""`Options` of a built-in reward: the keys below `reward.<its name>`, which build it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from omatg_ray.errors import RewardError
from omatg_ray.settings import Settings

if TYPE_CHECKING:
    from omatg_ray.crystal.dataset import CrystalDataset
    from omatg_ray.reward.protocol import Once, Reward
    from omatg_ray.reward.settings import RewardSettings


UNNAMED_POTENTIAL = "reward.potential: name a MatGL potential, the folder of one, or bundled"


@dataclass
class Materials:
    """Inputs that rewards are built from.

    Attributes:
        settings: Settings of the run's reward.
        known: Training crystals: the compositions to score.
        shared: Parts that several rewards share, as far as they are built: the reward of the crystals' energies, after
            `reward.relax_steps` of relaxation, is `energy` if a reward needs a potential.
    """

    settings: RewardSettings
    known: CrystalDataset
    shared: dict[str, Once] = field(default_factory=dict)

    @property
    def energy(self) -> Once:
        """Return the reward of the crystals' energies.

        Raises:
            RewardError: No reward has asked for a potential.
        """
        if "energy" not in self.shared:
            raise RewardError("a reward is made of energies, but its Options do not say `needs_potential = True`")
        return self.shared["energy"]


class Options(Settings):
    """Options of a built-in reward. The docstring of a subclass describes its group of keys.

    Configurations are read without PyTorch, so modules that need it are imported inside functions.

    Attributes:
        needs_potential: Whether the reward is made of energies.
        needs_known: Whether the reward scores only compositions known beforehand, and so none that a model generates.
        has_gradient: Whether the reward has a gradient by positions and lattices (`Reward.with_gradient`).
        needs_references: Whether the reward compares with known crystals, by default the training split.
    """

    needs_potential: ClassVar[bool] = False
    needs_known: ClassVar[bool] = False
    has_gradient: ClassVar[bool] = False
    needs_references: ClassVar[bool] = False

    @abstractmethod
    def build(self, materials: Materials) -> Reward:
        """Build the reward.

        Raises:
            OmatgRayError: Something is missing; says what.
        """

    def missing(self) -> str | None:
        """Return a key that must be set if this reward has a weight, but is not; None if there is none."""
        return None
