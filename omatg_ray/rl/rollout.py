"""Sampled trajectories: x_0 and the displacement of every step, from which all states follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.fields import FieldName, Fields, displace
from omatg_ray.flow.network import Output
from omatg_ray.flow.settings import Precision
from omatg_ray.policy.gaussian import noise_log_density
from omatg_ray.policy.policy import Policy, Step

K = TypeVar("K", bound=str)


@dataclass(frozen=True)
class Trajectory:
    """Trajectories of B structures over K = T − 1 steps, of which M are learned from.

    Attributes:
        x_0: Start. Where species are generated, its species are those of the final state.
        times: Grid (T,).
        displacement: What each step added before wrapping, pos (K, sum N, 3), cell (K, B, 3, 3).
        log_prob: Log-density of each active field's action, pos (M, sum N) per atom, cell (M, B); (M, B) for both where
            an action is a single number.
        action: Actions (M, B) where they are not the displacements themselves.
        base_outputs: Outputs of the base network for the active fields at every state, (M, ...), where the objective
            needs them.
        species: Species at every step's state (K, sum N), where they are generated; 0 where masked.
        learn_from: The steps that are learned from (M,), increasing; None: all, M = K.
        precision: Precision of the networks. Learning must use the same one; otherwise the ratios would differ from 1
            before the first update.
    """

    x_0: CrystalBatch
    times: Tensor
    displacement: Fields
    log_prob: Fields
    action: Fields
    base_outputs: dict[Output, Tensor]
    species: Tensor | None = None
    learn_from: Tensor | None = None
    precision: Precision = "float32"

    def __len__(self) -> int:
        return len(self.x_0)

    @property
    def n_steps(self) -> int:
        return len(self.times) - 1

    @property
    def n_learned(self) -> int:
        return self.n_steps if self.learn_from is None else len(self.learn_from)

    def of_learned(self, values: Tensor) -> Tensor:
        """Select the rows (M, ...) of the steps learned from, out of values per step (K, ...) or per grid point."""
        return values[: self.n_steps] if self.learn_from is None else values.index_select(0, self.learn_from)

    def states(self) -> tuple[Tensor, Tensor]:
        """Replay positions (T, sum N, 3) and lattices (T, B, 3, 3) from x_0 and the displacements, bit for bit."""
        state = self.x_0
        pos, cell = [state.pos], [state.cell]
        for k in range(self.n_steps):
            state = displace(state, {field: values[k] for field, values in self.displacement.items()})
            pos.append(state.pos)
            cell.append(state.cell)
        return torch.stack(pos), torch.stack(cell)

    def actions(self, field: FieldName) -> Tensor:
        """Return the actions (M, ...) of an active field in the steps learned from."""
        action = self.action.get(field)
        return self.of_learned(self.displacement[field]) if action is None else action

    def final(self) -> CrystalBatch:
        """Return the generated crystals."""
        pos, cell = self.states()
        return self.x_0.replace(pos[-1], cell[-1])

    def to(self, device: torch.device | str) -> Trajectory:
        """Return the trajectories on a device; the same object if they are there already."""
        if torch.device(device) == self.x_0.device:
            return self

        def move(tensors: dict[K, Tensor]) -> dict[K, Tensor]:
            return {name: values.to(device) for name, values in tensors.items()}

        return replace(
            self,
            x_0=self.x_0.to(device),
            times=self.times.to(device),
            displacement=move(self.displacement),
            log_prob=move(self.log_prob),
            action=move(self.action),
            base_outputs=move(self.base_outputs),
            species=None if self.species is None else self.species.to(device),
            learn_from=None if self.learn_from is None else self.learn_from.to(device),
        )

    def select(self, structures: Tensor) -> Trajectory:
        """Return the trajectories of some structures, given by indices (b,) into 0 … B − 1."""
        structures = structures.to(self.x_0.device)
        atoms = self.x_0.layout.atoms_of(structures)

        def part(tensors: dict[K, Tensor], of_structures: bool = False) -> dict[K, Tensor]:
            by_atom = {name for name in tensors if str(name).startswith("pos") and not of_structures}
            return {
                name: values.index_select(1, atoms if name in by_atom else structures)
                for name, values in tensors.items()
            }

        return replace(
            self,
            x_0=self.x_0.select(structures),
            displacement=part(self.displacement),
            log_prob=part(self.log_prob, of_structures=bool(self.action)),
            action=part(self.action, of_structures=True),
            base_outputs=part(self.base_outputs),
            species=None if self.species is None else self.species.index_select(1, atoms),
        )

    @classmethod
    def cat(cls, trajectories: Sequence[Trajectory]) -> Trajectory:
        """Concatenate the trajectories of several batches on one time grid, in order."""
        first = trajectories[0]

        def join(name: str) -> dict[Any, Tensor]:
            parts = [getattr(trajectory, name) for trajectory in trajectories]
            return {field: torch.cat([part[field] for part in parts], dim=1) for field in parts[0]}

        species = [trajectory.species for trajectory in trajectories if trajectory.species is not None]
        return replace(
            first,
            x_0=CrystalBatch.cat([t.x_0 for t in trajectories]),
            displacement=join("displacement"),
            log_prob=join("log_prob"),
            action=join("action"),
            base_outputs=join("base_outputs"),
            species=torch.cat(species, dim=1) if species else None,
        )


def rollout(
    policy: Policy,
    x_0: CrystalBatch,
    times: Tensor,
    noise: Fields,
    with_base: bool = False,
    jumps: Tensor | None = None,
    learn_from: Sequence[int] | None = None,
    noise_elsewhere: bool = True,
) -> Trajectory:
    """Sample trajectories and record what the objective needs.

    Args:
        policy: Sampling policy.
        x_0: Start, on the policy's device.
        times: Grid (T,).
        noise: Standard normal numbers for the active fields, as returned by `draw_noise`; none for trajectories without
            noise, which have no densities.
        with_base: Whether to record the base network's outputs for the active fields, for KL and distillation.
        jumps: Random numbers as returned by `draw_jumps`, where the policy generates species.
        learn_from: The steps that will be learned from, increasing; None: all.
        noise_elsewhere: Whether the other steps take noise too.

    Raises:
        TrainingError: Learned noise is not positive.
    """
    policy.require_noise(times.to(x_0.device, x_0.dtype))
    steps: list[Step] = []
    learned = range(len(times) - 1) if learn_from is None else learn_from
    final = policy.integrate(
        x_0,
        times,
        noise,
        base_at=learned if with_base else (),
        on_step=steps.append,
        jumps=jumps,
        noisy_at=None if noise_elsewhere else learned,
    )
    visited = [x_0.species, *(step.species for step in steps[:-1] if step.species is not None)]
    times = times.to(x_0.device, x_0.dtype)
    rows = None if learn_from is None else torch.tensor(learn_from, device=x_0.device)
    log_prob: Fields = {}
    for field in policy.active if noise else ():
        variance = (policy.noise[field].sigma(times[:-1]).square() * times.diff()).detach()
        drawn = noise[field]
        if rows is not None:
            variance, drawn = variance.index_select(0, rows), drawn.index_select(0, rows)
        flat = components(drawn)
        log_prob[field] = noise_log_density(flat, variance[:, None, None]).sum(-1)

    def stack(name: str, of: Sequence[Step]) -> dict[Any, Tensor]:
        parts = [getattr(step, name) for step in of]
        return {key: torch.stack([part[key] for part in parts]) for key in parts[0]}

    learned_from = [steps[k] for k in learned]
    return Trajectory(
        x_0=x_0.replace(species=final.species),
        times=times,
        displacement=stack("displacement", steps),
        log_prob=log_prob,
        action=stack("action", learned_from),
        base_outputs=stack("base_outputs", learned_from),
        species=None if policy.species is None else torch.stack(visited),
        learn_from=rows,
        precision=policy.precision,
    )


def components(values: Tensor) -> Tensor:
    """Reshape actions or their noise to (K, rows, components): 3 per atom, 9 per lattice, 1 per number (K, B)."""
    return values[..., None] if values.dim() == 2 else values.flatten(2)
