"""Sampled trajectories: x_0 and the displacements of every step, from which all states follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.fields import FieldName, Fields, displace
from omatg_ray.policy.gaussian import noise_log_density
from omatg_ray.policy.policy import Policy, Step


@dataclass(frozen=True)
class Trajectory:
    """Trajectories of B structures over K = T − 1 steps.

    Attributes:
        x_0: Start.
        times: Grid (T,).
        displacement: What each step added before wrapping, pos (K, sum N, 3), cell (K, B, 3, 3).
        log_prob: Log-density of each active field's action, pos (K, sum N) per atom, cell (K, B).
        base_rate: The base's drift of the active fields at every state, where the objective needs it.
        version: Version of the policy that sampled it.
    """

    x_0: CrystalBatch
    times: Tensor
    displacement: Fields
    log_prob: Fields
    base_rate: Fields
    version: int = 0

    def __len__(self) -> int:
        return len(self.x_0)

    @property
    def n_steps(self) -> int:
        return len(self.times) - 1

    def states(self) -> tuple[Tensor, Tensor]:
        """Positions (T, sum N, 3) and lattices (T, B, 3, 3), replayed bit by bit from x_0 and the displacements."""
        state = self.x_0
        pos, cell = [state.pos], [state.cell]
        for k in range(self.n_steps):
            state = displace(state, {field: values[k] for field, values in self.displacement.items()})
            pos.append(state.pos)
            cell.append(state.cell)
        return torch.stack(pos), torch.stack(cell)

    def final(self) -> CrystalBatch:
        """The generated crystals."""
        pos, cell = self.states()
        return self.x_0.replace(pos[-1], cell[-1])

    def to(self, device: torch.device | str) -> Trajectory:
        """Moved to a device; itself where it is there already."""
        if torch.device(device) == self.x_0.device:
            return self

        def moved(fields: Fields) -> Fields:
            return {field: values.to(device) for field, values in fields.items()}

        return Trajectory(
            self.x_0.to(device),
            self.times.to(device),
            moved(self.displacement),
            moved(self.log_prob),
            moved(self.base_rate),
            self.version,
        )

    def select(self, structures: Tensor) -> Trajectory:
        """The trajectories of some structures: indices (b,) into 0 … B − 1."""
        structures = structures.to(self.x_0.device)
        rows: dict[FieldName, Tensor] = {"pos": self.x_0.layout.atoms_of(structures), "cell": structures}

        def part(fields: Fields) -> Fields:
            return {field: values.index_select(1, rows[field]) for field, values in fields.items()}

        return Trajectory(
            self.x_0.select(structures),
            self.times,
            part(self.displacement),
            part(self.log_prob),
            part(self.base_rate),
            self.version,
        )

    @classmethod
    def cat(cls, trajectories: Sequence[Trajectory]) -> Trajectory:
        """Trajectories of several batches on one time grid, in order."""
        first = trajectories[0]

        def joined(name: str) -> Fields:
            parts = [getattr(trajectory, name) for trajectory in trajectories]
            return {field: torch.cat([part[field] for part in parts], dim=1) for field in parts[0]}

        return cls(
            CrystalBatch.cat([t.x_0 for t in trajectories]),
            first.times,
            joined("displacement"),
            joined("log_prob"),
            joined("base_rate"),
            first.version,
        )


def rollout(
    policy: Policy, x_0: CrystalBatch, times: Tensor, noise: Fields, with_base: bool = False, version: int = 0
) -> Trajectory:
    """Samples trajectories and records what the objective needs.

    Args:
        policy: Sampling policy.
        x_0: Start, on the policy's device.
        times: Grid (T,).
        noise: Standard normal numbers of the active fields, pos (T − 1, sum N, 3), cell (T − 1, B, 3, 3).
        with_base: Record the base's drift of the active fields, for the KL.
        version: Recorded with the trajectory.
    """
    steps: list[Step] = []
    policy.integrate(x_0, times, noise, with_base, on_step=steps.append)
    times = times.to(x_0.device, x_0.dtype)
    log_prob: Fields = {}
    for field in policy.active:
        variance = policy.noise[field].sigma(times[:-1]).square() * times.diff()
        flat = noise[field].flatten(2) if field == "cell" else noise[field]
        log_prob[field] = noise_log_density(flat, variance[:, None, None]).sum(-1)
    first = steps[0]
    return Trajectory(
        x_0=x_0,
        times=times,
        displacement={field: torch.stack([s.displacement[field] for s in steps]) for field in first.displacement},
        log_prob=log_prob,
        base_rate={field: torch.stack([s.base_rate[field] for s in steps]) for field in first.base_rate},
        version=version,
    )
