"""`omatg-ray evaluate --structures`: a reward of crystals that exist already."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.crystal.read import OnError, read_dataset
from omatg_ray.crystal.validity import check_validity
from omatg_ray.distributed.settings import RaySettings
from omatg_ray.evaluate.compositions import ByComposition, interval_dicts
from omatg_ray.evaluate.domain import trained_on, warn_outside
from omatg_ray.evaluate.rewards import column_of, reward_rows
from omatg_ray.evaluate.settings import BLOCK
from omatg_ray.reward.protocol import reward_of_known
from omatg_ray.run.location import Location
from omatg_ray.run.progress import Progress
from omatg_ray.run.storage import local_copy
from omatg_ray.train.device import driver_device, set_threads
from omatg_ray.train.early import reward_config
from omatg_ray.train.measured_reward import measured_reward


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """Crystals and the reward to score them with.

    Attributes:
        structures: File, folder or URL of crystals. Overlapping atoms are allowed: such crystals count as invalid.
        reward: YAML file with a section `reward`, or folder of a run.
        potential: Potential of the reward if its settings name none.
        on_error: Whether unusable crystals are refused or skipped.
        drop_unknown: Leave out crystals with elements that the reward does not know, and warn of how many.
        device: auto, cpu, cuda or cuda:N.
        threads: PyTorch's CPU threads; None leaves the choice to PyTorch.
        block: Crystals scored together.
    """

    structures: Location
    reward: Path
    potential: str | None = None
    on_error: OnError = "refuse"
    drop_unknown: bool = False
    device: str = "auto"
    threads: int | None = None
    block: int = BLOCK


@dataclass(frozen=True)
class Scored:
    """Scored crystals.

    Attributes:
        dataset: The crystals, with their cells as they are in the file.
        rewards: The weighted sum, its parts and their values by name (n,), NaN where failed or undefined.
        settings: What was scored, and by what.
    """

    dataset: CrystalDataset
    rewards: dict[str, Tensor]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def properties(self) -> list[dict[str, Any]]:
        """Columns to write beside the crystals, one row for each."""
        columns = {"material_id": self.dataset.ids}
        columns |= {column_of(name): rows.tolist() for name, rows in self.rewards.items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def as_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON: means with intervals, then the values of every crystal; NaN becomes None."""
        columns = {column_of(name): rows for name, rows in self.rewards.items()}
        intervals = interval_dicts(ByComposition.of(self.dataset.compositions).with_rows(columns).intervals())
        return {
            **self.settings,
            "n": len(self.dataset),
            "rewards": {name: intervals[column_of(name)] for name in self.rewards},
            "per_structure": {
                "id": self.dataset.ids,
                "formula": self.dataset.crystals.formulas(),
                "composition": self.dataset.compositions,
                "valid": check_validity(self.dataset.crystals).valid.tolist(),
                **{
                    name: [None if value != value else value for value in rows.tolist()]
                    for name, rows in columns.items()
                },
            },
        }


def score(options: ScoreOptions, progress: bool = False) -> Scored:
    """Score crystals.

    Raises:
        ConfigError: As `reward_config`, or no potential is named and one is needed.
        DataError: The crystals cannot be read, or none is left.
        PotentialError: The potential cannot be loaded.
        RewardError: The reward cannot be built, breaks its contract or cannot score an element of the crystals.
    """
    set_threads(options.threads)
    config = reward_config(options.reward)
    with local_copy(options.structures) as path:
        dataset = read_dataset(path, reduce=False, on_error=options.on_error, allow_overlaps=True, progress=progress)
    device = driver_device(options.device, RaySettings())
    own = measured_reward(
        options.reward,
        config,
        dataset,
        device,
        potential=options.potential,
        progress=progress,
        generated=True,
        unknown_from=options.structures if options.drop_unknown else None,
    )
    dataset, results = own.crystals, []
    warn_outside({}, trained_on({}, own.energies), dataset.crystals.atomic_numbers, "crystals")
    with closing(own.reward), Progress(len(dataset), "score", shown=progress) as bar:
        for rows in torch.arange(len(dataset)).split(options.block):
            results.append(reward_of_known(own.reward, dataset.crystals.select(rows)))
            bar.advance(steps=len(rows))
    settings = {"label": str(options.structures), "structures": str(options.structures), "reward": str(options.reward)}
    return Scored(dataset, reward_rows(results), settings)
