"""Gaussian step policy: a drift and a noise level per field, and the integration that they define.

In a step from t to t + dt the action of a field is drawn from N(drift · dt, σ(t)² dt) and becomes a displacement.
Without noise this is the plain Euler sampler of the flow; with no active field it is the base model.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.fields import FIELDS, FieldName, Fields, displace
from omatg_ray.errors import ModelError, TrainingError
from omatg_ray.flow.network import CSPNet, Output
from omatg_ray.flow.settings import Precision
from omatg_ray.flow.species import SpeciesPath
from omatg_ray.policy.drift import VELOCITY, Drift, Outputs, annealed_velocity, of_rows
from omatg_ray.policy.grid import time_grid
from omatg_ray.policy.noise import LearnedNoise, Noise
from omatg_ray.policy.schedule import Schedule
from omatg_ray.seeding import generator

SAME_TIME = 1e-6
"""Difference below which two times are the same: grids are float32."""


def draw_noise(
    crystals: CrystalBatch,
    steps: int,
    seeds: Sequence[int],
    fields: Sequence[FieldName],
    per_structure: bool = False,
) -> Fields:
    """Draw standard normal numbers for all Euler steps: pos (steps − 1, sum N, 3), cell (steps − 1, B, 3, 3).

    Those of structure i depend only on seeds[i], its size and the number of steps.

    Args:
        per_structure: Draw one number for each structure and field instead, (steps − 1, B).
    """
    noise: Fields = {}
    for field in fields:
        if per_structure:
            shapes: list[tuple[int, ...]] = [(1,)] * len(crystals)
        else:
            shapes = [(n, 3) if field == "pos" else (1, 3, 3) for n in crystals.layout.sizes]
        draws = [
            torch.randn(steps - 1, *shape, generator=generator(seed, "noise", field))
            for seed, shape in zip(seeds, shapes, strict=True)
        ]
        noise[field] = torch.cat(draws, dim=1).to(crystals.device)
    return noise


@dataclass(frozen=True)
class Step:
    """One Euler step.

    Attributes:
        displacement: Displacements, pos (sum N, 3), cell (B, 3, 3).
        action: Actions (B,) of the active fields where these are not the displacements themselves.
        base_outputs: Outputs of the base network for the active fields, if requested.
        species: Species after the step (sum N,), if they are generated.
    """

    displacement: Fields
    action: Fields
    base_outputs: Outputs
    species: Tensor | None = None


class Policy:
    """Drift, noise, and the networks that they act through.

    Args:
        drift: Drift of the active fields.
        network: Network of the active fields; not run if the drift needs none of its outputs.
        base_network: Network of the frozen fields, and the reference of the KL divergence.
        active: Fields that the policy acts on; the others follow the base's velocity without noise.
        noise: σ(t) of the active fields.
        schedule: Multiplies the velocity of frozen fields, and defines the time grid.
        acts_from: Time from which the policy acts. Before it, the active fields follow the base network without noise.
        species: Path of generated species, which the base network alone generates; None: species are given.

    Attributes:
        precision: Precision in which the networks are evaluated.
        guidance: Weights of the policy (B,), if it is guided (`guided`).

    Raises:
        ModelError: An active field has no noise schedule.
    """

    def __init__(
        self,
        drift: Drift,
        network: CSPNet,
        base_network: CSPNet,
        active: Sequence[FieldName],
        noise: Mapping[FieldName, Noise],
        schedule: Schedule | None = None,
        species: SpeciesPath | None = None,
        acts_from: float = 0.0,
    ) -> None:
        missing = set(active) - set(noise)
        if missing:
            raise ModelError(f"active fields without a noise schedule: {', '.join(sorted(missing))}")
        self.drift, self.network, self.base_network = drift, network, base_network
        self.active = tuple(field for field in FIELDS if field in active)
        self.frozen = tuple(field for field in FIELDS if field not in active)
        self.noise = dict(noise)
        self.species, self.acts_from = species, acts_from
        self.of_frozen = annealed_velocity(schedule)
        self.quiet = drift.noiseless()
        self._schedule = schedule
        self.precision: Precision = "float32"
        self.guidance: Tensor | None = None

    def at(self, precision: Precision) -> Policy:
        """Return a copy of this policy, with the same networks, that is evaluated in a precision."""
        other = copy.copy(self)
        other.precision = precision
        return other

    def guided(self, weights: Tensor) -> Policy:
        """Return a copy of this policy, with the same networks, that is guided away from the base.

        Where the policy acts, the outputs of its network become those of the base, plus w times what it changes. At
        w = 1 it is the policy, at 0 its base, and above 1 it goes further in the direction in which it was reinforced
        (CFGRL: Frans et al., 2025, arXiv 2505.23458).

        Args:
            weights: w of every structure (B,).
        """
        other = copy.copy(self)
        other.guidance = weights
        return other

    def times(self, steps: int) -> Tensor:
        """Return the time grid (steps,), float32: equal steps unless the schedule has others.

        Raises:
            ModelError: Fewer than 2 points.
        """
        return time_grid(steps) if self._schedule is None else self._schedule.times(steps)

    def first_step(self, times: Tensor) -> int:
        """Return the index of the first step on a time grid (T,) in which the policy acts; T − 1 if it never does."""
        return int((times[:-1] < self.acts_from - SAME_TIME).sum())

    @property
    def heads(self) -> set[Output]:
        """Return the names of the network outputs that the drift of the active fields depends on."""
        return {name for field in self.active for name in self.drift.outputs(field)}

    @property
    def asks_base(self) -> bool:
        """Return whether every step needs the base network."""
        return bool(self.frozen) or self.drift.per_structure or self.species is not None

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that reinforcement trains, in a fixed order; make exactly these require gradients."""
        parameters: list[nn.Parameter] = []
        if self.heads:
            self.network.requires_grad_(True).train_only(self.heads)
            parameters += self.network.trainable_parameters()
        parameters += self.drift.trained()
        for noise in (self.noise[field] for field in self.active):
            if isinstance(noise, nn.Module):
                parameters += noise.parameters()
        for parameter in parameters:
            parameter.requires_grad_(True)
        return parameters

    def outputs(self, crystals: CrystalBatch, t: Tensor) -> Outputs:
        """Return the network outputs that the drift of the active fields needs; t () or (B,).

        Training differentiates them.
        """
        return self._ask(self.network, crystals, t, self.heads)

    def require_noise(self, times: Tensor) -> None:
        """Check that learned noise is positive on a time grid (T,).

        Raises:
            TrainingError: It is not; names the field.
        """
        for field in self.active:
            noise = self.noise[field]
            lowest = float(noise.sigma(times[:-1]).detach().min()) if isinstance(noise, LearnedNoise) else math.inf
            if not lowest > 0:
                raise TrainingError(
                    f"learned noise of {field} reached σ = {lowest:g}; lower learner.lr, raise "
                    f"objective.entropy_weight.{field}, or start from a larger policy.noise.{field}.a"
                )

    def velocity(self, crystals: CrystalBatch, t: Tensor) -> Fields:
        """Return ∂_t of both fields without noise: pos (sum N, 3), cell (B, 3, 3); t () or (B,)."""
        unit = torch.ones((), dtype=crystals.dtype, device=crystals.device)
        return self.step(crystals, t, unit, {}, euler=False).displacement

    def step(
        self,
        crystals: CrystalBatch,
        t: Tensor,
        dt: Tensor,
        noise: Fields,
        with_base: bool = False,
        jumps: Tensor | None = None,
        last: bool = False,
        euler: bool = True,
    ) -> Step:
        """Return the step of both fields from t to t + dt; a field without an entry in `noise` moves without noise.

        The base network runs only if a field is frozen, actions scale the base's velocity, species are generated, or
        `with_base` requests its outputs for the active fields, before `acts_from`, and where the policy is guided.

        Args:
            jumps: Uniform numbers (sum N,) for generated species; None: species stay.
            last: Whether the step ends the trajectory, which completes the species.
            euler: Whether dt is the length of an actual step, on which schedules may depend.
        """
        acts = self.acts_from == 0.0 or bool((t >= self.acts_from - SAME_TIME).all())
        noise = noise if acts else {}
        scaled = self.active if self.drift.per_structure else ()
        base_heads: set[Output] = {VELOCITY[field] for field in (*self.frozen, *scaled)}
        if jumps is not None:
            base_heads.add("species_b")
        quiet = set(self.active) - set(noise) - set(scaled)
        drifts = {field: self.quiet if field in quiet else self.drift for field in self.active}
        own_heads = {name for field, drift in drifts.items() for name in drift.outputs(field)}
        base_heads |= self.heads if with_base else set()
        guidance = self.guidance if acts else None
        with_own = not acts or guidance is not None
        base = self._ask(self.base_network, crystals, t, base_heads | own_heads if with_own else base_heads)
        own = self._ask(self.network, crystals, t, own_heads) if acts else base
        if guidance is not None:
            own = {name: _guide(guidance, name, own[name], base[name], crystals) for name in own}
        displacement: Fields = {}
        actions: Fields = {}
        length = dt if euler else None
        for field in FIELDS:
            drift, outputs = (drifts[field], own) if field in drifts else (self.of_frozen, base)
            action = drift.rate(field, outputs, t, crystals, length) * dt
            if field in drifts and field in noise:
                action = action + self.noise[field].sigma(t) * dt.sqrt() * noise[field]
            if field in scaled:
                actions[field] = action
                action = of_rows(action, field, crystals) * base[VELOCITY[field]]
            displacement[field] = action
        species = None
        if self.species is not None and jumps is not None:
            species = self.species.step(base["species_b"], crystals.species, t, dt, jumps, last)
        return Step(displacement, actions, {name: base[name] for name in self.heads} if with_base else {}, species)

    @torch.no_grad()
    def integrate(
        self,
        x_0: CrystalBatch,
        times: Tensor,
        noise: Fields | None = None,
        base_at: Container[int] = (),
        on_step: Callable[[Step], None] | None = None,
        jumps: Tensor | None = None,
        noisy_at: Container[int] | None = None,
    ) -> CrystalBatch:
        """Return the final state of the trajectory from x_0 along a time grid (T,).

        Args:
            noise: Standard normal numbers per field, (T − 1, ...); other fields take no noise.
            base_at: Steps in which the base network's outputs for the active fields are recorded too.
            on_step: Called with every step, in order.
            jumps: Uniform numbers (T − 1, sum N) if species are generated, else None.
            noisy_at: Steps that take noise; None: all.

        Raises:
            ValueError: `jumps` are given for a policy with given species, or missing for one that generates them.
        """
        if (jumps is None) != (self.species is None):
            raise ValueError("give jumps if, and only if, the policy generates species")
        crystals, times = x_0, times.to(x_0.device, x_0.dtype)
        for k, dt in enumerate(times.diff()):
            noisy = noise is not None and (noisy_at is None or k in noisy_at)
            step_noise: Fields = {field: values[k] for field, values in noise.items()} if noise and noisy else {}
            step_jumps = None if jumps is None else jumps[k]
            step = self.step(crystals, times[k], dt, step_noise, k in base_at, step_jumps, last=k == len(times) - 2)
            if on_step is not None:
                on_step(step)
            crystals = displace(crystals, step.displacement)
            if step.species is not None:
                crystals = crystals.replace(species=step.species)
        return crystals

    def _ask(self, network: CSPNet, crystals: CrystalBatch, t: Tensor, names: set[Output]) -> Outputs:
        """Return some outputs of a network, which is not run if there are none."""
        if not names:
            return {}
        out = network(crystals, t, self.precision)
        return {name: getattr(out, name) for name in sorted(names)}


def _guide(weights: Tensor, name: Output, own: Tensor, base: Tensor, crystals: CrystalBatch) -> Tensor:
    """Return an output of the base plus w times what the policy changes."""
    field: FieldName = "pos" if name.startswith("pos") else "cell"
    return base + of_rows(weights, field, crystals) * (own - base)
