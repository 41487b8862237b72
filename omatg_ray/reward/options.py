"""`Options` of a built-in reward: the keys below `reward.<its name>`, which build it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from omatg_ray.errors import ConfigError
from omatg_ray.settings import Settings

if TYPE_CHECKING:
    from omatg_ray.crystal.dataset import CrystalDataset
    from omatg_ray.reward.energy import MatGLEnergy
    from omatg_ray.reward.protocol import Once, Reward
    from omatg_ray.reward.settings import RewardSettings


@dataclass
class Materials:
    """What rewards are built of.

    Attributes:
        settings: The reward of the run.
        known: Training crystals: the compositions to score.
        relaxed: The energy that is rewarded: of crystals relaxed by `reward.relax_steps`; None without a potential.
        energy: The same, remembering its last batch, for all rewards that are made of energies.
        shared: Of rewards that have much in common, what was built already.
    """

    settings: RewardSettings
    known: CrystalDataset
    relaxed: MatGLEnergy | None = None
    energy: Once | None = None
    shared: dict[str, Once] = field(default_factory=dict)

    def require_energy(self) -> tuple[MatGLEnergy, Once]:
        """The energy that is rewarded, as it is and remembering its last batch.

        Raises:
            ConfigError: No potential is named.
        """
        if self.relaxed is None or self.energy is None:
            raise ConfigError("reward.potential: name a MatGL potential, the folder of one, or bundled")
        return self.relaxed, self.energy


class Options(Settings):
    """Options of a reward of the package. Its docstring describes the group of keys.

    Configurations are read without PyTorch: what needs it is imported inside of functions.

    Attributes:
        needs_potential: Whether it is made of energies.
        needs_known: Whether it scores compositions that are known beforehand, and so none that a model generates.
    """

    needs_potential: ClassVar[bool] = False
    needs_known: ClassVar[bool] = False

    @abstractmethod
    def build(self, materials: Materials) -> Reward:
        """The reward.

        Raises:
            OmatgRayError: It lacks something; says what.
        """

    def missing(self) -> str | None:
        """The key that has to be set where this reward has a weight, if it is not."""
        return None
