"""The loss of a microbatch: densities of its actions under the policy, divergence from the base, and the objective.

Source: OMatG-IRL (arXiv 2602.00424).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch, Layout
from omatg_ray.crystal.fields import FieldName
from omatg_ray.policy.drift import DENOISERS, Outputs
from omatg_ray.policy.gaussian import kl_divergence, log_density
from omatg_ray.policy.noise import LearnedNoise
from omatg_ray.policy.policy import Policy
from omatg_ray.rl.microbatch import Microbatch
from omatg_ray.rl.objective import Terms, negative_entropy, position_terms, surrogate
from omatg_ray.rl.rollout import Trajectory, components
from omatg_ray.rl.settings import ObjectiveSettings

State = tuple[Tensor, CrystalBatch, Tensor]
"""Times, states and step lengths of a batch, row by row, as `Drift.rate` takes them."""


@dataclass(frozen=True)
class Loss:
    """The loss of a policy under an objective."""

    policy: Policy
    objective: ObjectiveSettings

    def __call__(self, microbatch: Microbatch) -> tuple[Tensor, dict[str, float], float]:
        """Return loss, statistics and largest |log-ratio| of a microbatch, weighted so that microbatches add up."""
        trajectory, steps, weight = microbatch.trajectory, microbatch.steps, microbatch.weight
        crystals, times = microbatch.crystals, trajectory.times
        t, dt = (trajectory.of_learned(values)[steps] for values in (times[:-1], times.diff()))
        # One time per structure and step, so that all steps of the block share a network call.
        t_each, dt_each = (values.repeat_interleave(len(trajectory)) for values in (t, dt))
        outputs = self.policy.at(trajectory.precision).outputs(crystals, t_each)
        base = {name: values[steps].flatten(0, 1) for name, values in trajectory.base_outputs.items()}
        loss = torch.zeros((), device=t.device)
        stats: dict[str, float] = {}
        largest = 0.0
        for field in self.policy.active:
            action, at = trajectory.actions(field)[steps], (t_each, crystals, dt_each)
            log_prob, kl = self._densities(field, action, at, outputs, base, t, dt)
            log_ratio = log_prob - trajectory.log_prob[field][steps]
            # An unknown KL has no weight and is not reported.
            counted = torch.zeros_like(log_ratio) if kl is None else kl
            policy_loss, divergence, clipped = self._terms(field, log_ratio, counted, microbatch.advantage, trajectory)
            policy_weight, kl_weight = self.objective.policy_weight.of(field), self.objective.kl_weight.of(field)
            loss = loss + weight * (policy_weight * policy_loss.sum() + kl_weight * divergence.sum())
            reported = {"policy_loss": policy_loss, "clip_fraction": clipped}
            for name, values in (reported if kl is None else {**reported, "kl": divergence}).items():
                stats[f"{name}_{field}"] = weight * float(values.detach().sum())
            largest = max(largest, float(log_ratio.detach().abs().max()))
            for extra in (
                self._entropy(field, trajectory, t, weight, stats),
                self._distillation(field, crystals.layout, outputs, base, weight, stats),
            ):
                loss = loss if extra is None else loss + extra
        return loss, stats, largest

    def _densities(
        self, field: FieldName, action: Tensor, at: State, outputs: Outputs, base: Outputs, t: Tensor, dt: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return log-densities of the actions and KL to the base (None if unknown), per atom or structure (K, ·)."""
        drift = self.policy.drift
        rate = components(drift.rate(field, outputs, *at).view_as(action))
        t, dt = t[:, None, None], dt[:, None, None]
        sigma = self.policy.noise[field].sigma(t)
        log_prob = log_density(components(action), rate * dt, sigma.square() * dt).sum(-1)
        if not (base or drift.per_structure):
            return log_prob, None
        reference = drift.reference().rate(field, base, *at).view_as(action)
        sigma_ref = self._reference_sigma(field, sigma, t)
        return log_prob, kl_divergence(rate - components(reference), sigma, sigma_ref, dt).sum(-1)

    def _reference_sigma(self, field: FieldName, sigma: Tensor, t: Tensor) -> Tensor:
        noise = self.policy.noise[field]
        if self.policy.drift.depends_on_noise:
            return sigma
        if field in self.objective.reference_noise:
            return self.objective.reference_noise[field].sigma(t)
        return torch.full_like(t, noise.a) if isinstance(noise, LearnedNoise) else sigma

    def _entropy(
        self, field: FieldName, trajectory: Trajectory, t: Tensor, weight: float, stats: dict[str, float]
    ) -> Tensor | None:
        """Return the weighted negative entropy of learned noise, over all atoms of a structure only if its ratio is."""
        noise, factor = self.policy.noise[field], self.objective.entropy_weight.of(field)
        if not isinstance(noise, LearnedNoise):
            return None
        sigma, size = noise.sigma(t), trajectory.x_0.n_atoms.to(t)
        if self.policy.drift.per_structure:
            of_structure = torch.ones_like(size)
        elif field == "cell":
            of_structure = torch.full_like(size, 9.0)
        else:
            of_structure = 3.0 * (size if self.objective.position_reduction == "none" else torch.ones_like(size))
        stats[f"entropy_{field}"] = -weight * len(size) * float(negative_entropy(sigma.detach()).sum())
        stats[f"sigma_{field}"] = weight * len(size) * float(sigma.detach().sum())
        return weight * factor * negative_entropy(sigma).sum() * of_structure.sum()

    def _distillation(
        self, field: FieldName, layout: Layout, outputs: Outputs, base: Outputs, weight: float, stats: dict[str, float]
    ) -> Tensor | None:
        """Return the weighted squared distance of the denoiser to the base's, averaged over a structure's atoms."""
        factor, name = self.objective.distillation_weight.of(field), DENOISERS[field]
        if not factor or name not in outputs:
            return None
        squares = (outputs[name] - base[name]).square().flatten(1).sum(-1)
        distance = (layout.mean(squares) if field == "pos" else squares).sum()
        stats[f"distillation_{field}"] = weight * float(distance.detach())
        return weight * factor * distance

    def _terms(
        self, field: FieldName, log_ratio: Tensor, kl: Tensor, advantage: Tensor, trajectory: Trajectory
    ) -> Terms:
        if field == "cell" or self.policy.drift.per_structure:
            policy_loss, clipped = surrogate(log_ratio, advantage, self.objective.clip)
            return policy_loss, kl, clipped
        layout, reduction = trajectory.x_0.layout, self.objective.position_reduction
        return position_terms(log_ratio, kl, advantage, layout, self.objective.clip, reduction)
