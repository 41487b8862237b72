"""Reward gradients through the last steps of a trajectory: the discrete adjoint.

Step k moves the state by m_k(x_k; θ), so the gradient of a reward R(x_T) with respect to the weights is the sum over
the steps of λ_{k+1} · ∂m_k/∂θ, with the adjoint λ_T = dR/dx_T and λ_k = λ_{k+1} + (∂m_k/∂x_k)ᵀ λ_{k+1}. Only the last K
steps are counted (DRaFT-K: Clark et al., arXiv 2309.17400), as the adjoint of many steps grows and loses its meaning.

The recorded states are replayed, and each step is differentiated on its own, so that memory holds the graph of one step
however many are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.fields import FIELDS, Fields
from omatg_ray.policy.policy import Policy
from omatg_ray.reward.gradient import Gradient
from omatg_ray.rl.rollout import Trajectory
from omatg_ray.rl.settings import RewardGradientSettings


@dataclass(frozen=True)
class Pathwise:
    """Update of a policy by the gradients of rewards.

    Args:
        policy: Policy whose steps without noise are differentiated.
        parameters: Its trained parameters.
        settings: Number of steps, bounds, and the weight of the distance to the base.
    """

    policy: Policy
    parameters: Sequence[nn.Parameter]
    settings: RewardGradientSettings

    def accumulate(
        self, trajectory: Trajectory, states: tuple[Tensor, Tensor], gradient: Gradient, weight: float
    ) -> dict[str, float]:
        """Add the gradient of −weight · Σ (R − `settings.distance` · D) to the `grad` of the parameters.

        Args:
            trajectory: B structures. If the last K steps took noise, the same noise is meant: it depends on no state.
            states: Positions (T, sum N, 3) and lattices (T, B, 3, 3) at all grid points.
            gradient: Gradient of their rewards R at the last state.
            weight: Factor of every structure.

        Returns:
            Sums over the structures, times weight: `gradient_size`, the size of the gradients; `gradient_limited`,
            the number of those above the limit; `adjoint_growth`, the size of the adjoint after the first counted step,
            in that of the limited gradient; with a weight, `velocity_distance`, the distance D in Å².
        """
        n_steps, settings = trajectory.n_steps, self.settings
        final = _state(trajectory, states, n_steps)
        gradient = gradient.to(final.pos.device)
        size = gradient.size(final)
        start = gradient.limited(settings.limit, final)
        size_at_start = start.size(final).nan_to_num(0.0).to(final.pos)
        adjoint = Gradient(start.pos.to(final.pos), start.cell.to(final.cell))
        first = max(self.policy.first_step(trajectory.times), n_steps - settings.transitions)
        apart = 0.0
        for k in reversed(range(first, n_steps)):
            state = _state(trajectory, states, k)
            state.pos.requires_grad_(k > first)
            state.cell.requires_grad_(k > first)
            by_state, distance = self._differentiate(trajectory, state, k, adjoint, -weight)
            apart += distance
            if k > first:
                where = state.replace(state.pos.detach(), state.cell.detach())
                adjoint = (adjoint + by_state).limited(settings.growth * size_at_start, where)
        grown = adjoint.size(_state(trajectory, states, first + 1)).nan_to_num(0.0) / size_at_start.clamp_min(1e-12)
        stats = {
            "gradient_size": weight * float(size.nan_to_num(0.0, 0.0, 0.0).sum()),
            "gradient_limited": weight * float((size > settings.limit).sum()),
            "adjoint_growth": weight * float(grown.sum()),
        }
        return stats | {"velocity_distance": weight * apart} if settings.distance else stats

    def _differentiate(
        self, trajectory: Trajectory, state: CrystalBatch, k: int, adjoint: Gradient, factor: float
    ) -> tuple[Gradient, float]:
        """Differentiate one step and add factor times its derivatives to the parameters' gradients.

        Returns:
            (∂m_k/∂x_k)ᵀ λ, less the weighted derivative of the distance; and the sum of the distances.
        """
        policy, weight = self.policy.at(trajectory.precision), self.settings.distance
        t, dt = trajectory.times[k], trajectory.times[k + 1] - trajectory.times[k]
        step = policy.step(state, t, dt, {}, with_base=bool(weight))
        along = sum(((getattr(adjoint, name) * step.displacement[name]).sum() for name in FIELDS), torch.zeros_like(dt))
        distance = torch.zeros_like(dt)
        if weight:
            drift = policy.quiet.reference()
            base = {name: drift.rate(name, step.base_outputs, t, state, dt) for name in policy.active}
            moved = {name: step.displacement[name] / dt - rate for name, rate in base.items()}
            distance = dt * _square(moved, state)
        inputs = [values for values in (state.pos, state.cell) if values.requires_grad]
        # Parameters that no step without noise depends on get zeros, so that the optimizer has a state for all.
        found = torch.autograd.grad(
            along - weight * distance, [*self.parameters, *inputs], allow_unused=True, materialize_grads=True
        )
        for parameter, value in zip(self.parameters, found, strict=False):
            parameter.grad = factor * value if parameter.grad is None else parameter.grad + factor * value
        by_pos, by_cell = found[len(self.parameters) :] or (torch.zeros_like(state.pos), torch.zeros_like(state.cell))
        return Gradient(by_pos, by_cell), float(distance.detach())


def _square(moved: Fields, crystals: CrystalBatch) -> Tensor:
    """Return the squared length in Å² of displacements: mean over atoms plus mean over lattice vectors, summed."""
    square = torch.zeros((), dtype=crystals.dtype, device=crystals.device)
    if "pos" in moved:
        cartesian = torch.einsum("ni,nij->nj", moved["pos"], crystals.cell[crystals.batch])
        square = square + crystals.layout.mean(cartesian.square().sum(1)).sum()
    if "cell" in moved:
        square = square + moved["cell"].square().sum(2).mean(1).sum()
    return square


def _state(trajectory: Trajectory, states: tuple[Tensor, Tensor], k: int) -> CrystalBatch:
    """Return the state at grid point k, detached."""
    species = trajectory.x_0.species
    if trajectory.species is not None and k < trajectory.n_steps:
        species = trajectory.species[k]
    return trajectory.x_0.replace(states[0][k].detach().clone(), states[1][k].detach().clone(), species)
