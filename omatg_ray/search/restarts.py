"""Restarts from what was found: low crystals, noised to a time of the flow, from which the model goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.flow.examples import draw_states
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import DEFAULT, Sampling
from omatg_ray.policy.policy import Policy
from omatg_ray.policy.settings import CHUNK_PAIRS
from omatg_ray.rl.replay import Best, Cell, boltzmann
from omatg_ray.seeding import generator, seed_of

TIMES = (0.2, 0.4, 0.6)
"""Times to which crystals are noised, drawn alike: early ones leave the basin, late ones move atoms inside it."""


class Restarts:
    """Makes crystals from low ones of the same cell, wherever a `FlowModel` would generate them.

    Args:
        model: Goes on from the noised crystals; of cells without a crystal it generates from the start.
        found: Low crystals of each cell, with minus their energies in eV/atom.
        temperature: T in eV/atom of the weights exp(−E / T) with which they are drawn.
    """

    def __init__(self, model: FlowModel, found: Mapping[Cell, Best], temperature: float) -> None:
        self._model, self._found, self._temperature = model, found, temperature

    def to(self, device: torch.device | str) -> Self:
        """Move its model to a device, in place."""
        self._model.to(device)
        return self

    def generate(
        self,
        species: Sequence[Sequence[int]],
        sampling: Sampling = DEFAULT,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        chunk_pairs: int = CHUNK_PAIRS,
        *,
        turns: Sequence[int] | None = None,
        judged: bool = False,
    ) -> CrystalBatch:
        """Make one crystal for each list of atomic numbers, on the CPU, called as `FlowModel.generate` is.

        Crystal i depends only on (species[i], seed, indices[i]) and on what was found. Its atoms are in the order of
        the crystal that it was made from. No noise of the policy is added on the way.

        Raises:
            DataError, ModelError, ValueError: As `FlowModel.generate`.
        """
        policy = self._model.policy(sampling.schedule, sde=False)
        times = policy.times(sampling.steps)
        made = []
        for numbers, index in zip(species, range(len(species)) if indices is None else indices, strict=True):
            found = self._found.get(tuple(sorted(numbers)))
            if found is None:
                made.append(self._model.generate([numbers], sampling, seed, [index], chunk_pairs, judged=judged))
            else:
                made.append(self._restart(found, policy, times, seed_of(seed, "structure", index)))
        return CrystalBatch.cat(made)

    def _restart(self, found: Best, policy: Policy, times: torch.Tensor, seed: int) -> CrystalBatch:
        draws, description = generator(seed, "restart"), self._model.description
        parent = found.crystals.select(
            torch.multinomial(boltzmann(found.reward, self._temperature), 1, generator=draws)
        )
        since = TIMES[int(torch.randint(len(TIMES), (1,), generator=draws))]
        left = times[int((times < since).sum()) :]
        base, paths = description.base_distribution, description.paths
        state, _ = draw_states(parent, left[:1], [seed], [draws], base, paths)
        return policy.integrate(state.to(self._model.device), left).to("cpu")
