"""Flow matching beside an update: on which training crystals, and the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.flow.examples import Examples, draw_examples
from omatg_ray.flow.settings import PathSettings
from omatg_ray.policy.drift import VELOCITY
from omatg_ray.policy.policy import Policy
from omatg_ray.rl.settings import FieldWeights
from omatg_ray.rl.work import take_in_turn
from omatg_ray.seeding import seed_of


@dataclass(frozen=True)
class TrainingCrystals:
    """Training crystals as ends of the flow.

    Args:
        crystals: The crystals, on the CPU.
        base: Distribution of x_0.
        paths: Paths of the flow.
        acts_from: Earliest time of an example.
        count: Examples per update.
        seed: Seed of the run.
    """

    crystals: CrystalBatch
    base: BaseDistribution
    paths: PathSettings
    acts_from: float
    count: int
    seed: int

    def examples(self, turn: int) -> Examples:
        """Return the examples of an update, from every crystal once before any of them twice."""
        rows = take_in_turn(len(self.crystals), turn, self.count, self.seed, "match")
        seeds = [seed_of(self.seed, "example", turn, place) for place in range(self.count)]
        return draw_examples(self.crystals.select(rows), seeds, self.base, self.paths, self.acts_from)


def matching_loss(
    policy: Policy, examples: Examples, weights: FieldWeights, source: str
) -> tuple[Tensor, dict[str, float]]:
    """Compute the sum over examples, times their weight, of the weighted squared errors of the active velocities.

    Args:
        policy: Policy whose network predicts the velocities.
        examples: Examples on its device.
        weights: Weights of the fields.
        source: Where the examples come from, for the names of the statistics.

    Returns:
        The loss; and the same without the weights of the fields, field by field: `<source>_pos` in fractional units
        squared and `<source>_cell` in Å², each a mean over the components of a structure.
    """
    outputs = policy.outputs(examples.state, examples.t)
    loss, stats = torch.zeros((), dtype=examples.t.dtype, device=examples.t.device), dict[str, float]()
    for name in policy.active:
        squares = (outputs[VELOCITY[name]] - examples.velocity[name]).square().flatten(1).mean(1)
        of_each = examples.state.layout.mean(squares[:, None]) if name == "pos" else squares
        error = examples.weight * of_each.sum()
        loss = loss + weights.of(name) * error
        stats[f"{source}_{name}"] = float(error.detach())
    return loss, stats
