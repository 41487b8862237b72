"""The learner: PPO epochs over the trajectories of an iteration, in microbatches of bounded size.

Several learners may share an iteration: each computes the gradients of its part, then all take the same step.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict

import torch
from torch import Tensor

from omatg_ray.crystal.fields import FieldName
from omatg_ray.errors import TrainingError
from omatg_ray.flow.activations import saved_bytes
from omatg_ray.policy.drift import DENOISER, Outputs
from omatg_ray.policy.gaussian import kl_divergence, log_density
from omatg_ray.policy.noise import LearnedNoise
from omatg_ray.policy.policy import Policy
from omatg_ray.rl.microbatch import Block, Microbatch, Part, Report, Tally
from omatg_ray.rl.objective import Terms, negative_entropy, position_terms, structure_terms
from omatg_ray.rl.process_group import ProcessGroup, SingleProcess
from omatg_ray.rl.settings import LearnerSettings, ObjectiveSettings
from omatg_ray.rl.trajectory import Trajectory, components
from omatg_ray.run.optimizer_state import flatten_optimizer, restore_optimizer

logger = logging.getLogger(__name__)

ALLOCATOR_ERRORS = ("can't allocate memory", "not enough memory")
"""What PyTorch's allocators of the CPU say, on Linux and Windows, in a plain RuntimeError."""


class Learner:
    """Updates a policy.

    Args:
        policy: Policy that sampled, whose densities are compared and whose weights are trained.
        objective: Loss.
        settings: Optimizer.

    Attributes:
        process_group: Learners with the same weights and optimizer, which share every update.
        microbatch_pairs: Ordered pairs of atoms per network call: those of the settings, or fewer since memory ran out.
    """

    def __init__(self, policy: Policy, objective: ObjectiveSettings, settings: LearnerSettings) -> None:
        self.policy, self.objective, self.settings = policy, objective, settings
        self.parameters = policy.trainable_parameters()
        self.optimizer = torch.optim.Adam(self.parameters, lr=settings.lr)
        self.process_group: ProcessGroup = SingleProcess()
        self.microbatch_pairs = settings.microbatch_pairs

    def update(self, trajectory: Trajectory | None, advantage: Tensor, total: int | None = None) -> dict[str, float]:
        """All epochs on one iteration's trajectories, or on this learner's part of them.

        Memory that runs out is answered by smaller microbatches: the epoch begins anew, and gives the same but for
        rounding.

        Args:
            trajectory: Counted structures only; None where this learner has none of them.
            advantage: (B,).
            total: Counted structures of all learners; by default those of `trajectory`.

        Returns:
            Over the structures of all learners, means over epochs of `loss`, `grad_norm` and, per active field,
            `policy_loss_*`, `clip_fraction_*`, `kl_*` (where what the base says was recorded), for learned noise
            `entropy_*` (per component) and `sigma_*`, where distillation counts `distillation_*`; `log_ratio_max` of
            the first epoch, the largest |log-ratio| of an atom or lattice, which is 0 up to rounding when on-policy;
            once memory has run out the smallest `microbatch_pairs` of a learner.

        Raises:
            TrainingError: The loss or its gradient is not finite, or a single structure at a single step does not fit
                into memory; the step was not taken (earlier epochs were). Names the compositions. All learners raise
                the same.
        """
        part = None if trajectory is None else Part.of(trajectory, advantage, total or len(trajectory))
        tally, norms, reports = Tally({}), 0.0, list[Report]()
        for epoch in range(self.settings.epochs):
            try:
                tally = self._gradients(part, tally, first=epoch == 0)
                graded = [index for index, parameter in enumerate(self.parameters) if parameter.grad is not None]
                report = Report(tally.sums, tally.log_ratio_max, graded, self.microbatch_pairs)
            except TrainingError as error:
                report = Report({}, 0.0, [], self.microbatch_pairs, str(error))
            reports = [Report(**said) for said in self.process_group.exchange(asdict(report))]
            for said in reports:
                if said.error is not None:
                    raise TrainingError(said.error)
            self._sum_gradients(sorted({index for said in reports for index in said.graded}))
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.grad_clip)
            if not torch.isfinite(norm):
                found = self.process_group.exchange(
                    {"formulas": [] if part is None else part.trajectory.x_0.formulas()}
                )
                formulas = _listed(formula for said in found for formula in said["formulas"])
                raise TrainingError(f"the gradient is not finite; compositions of this iteration: {formulas}")
            self.optimizer.step()
            norms += float(norm)
        sums: dict[str, float] = {}
        for said in reports:
            for name, value in said.sums.items():
                sums[name] = sums[name] + value if name in sums else value
        sums["grad_norm"] = norms
        means = {name: value / self.settings.epochs for name, value in sums.items()}
        pairs = min(said.microbatch_pairs for said in reports)
        changed = {"microbatch_pairs": pairs} if pairs < self.settings.microbatch_pairs else {}
        return means | {"log_ratio_max": max(said.log_ratio_max for said in reports)} | changed

    def _gradients(self, part: Part | None, before: Tally, first: bool) -> Tally:
        """Gradients of an epoch, in microbatches that fit into memory, and the statistics with those of the epoch."""
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            if part is None:
                return before
            tally = Tally(before.sums.copy(), before.log_ratio_max)
            try:
                self._backward(part, tally, first)
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                reason = str(error).splitlines()[0]
            else:
                return tally
            # Not in the handler: until it ends, the traceback holds what the microbatch needed.
            self._halve(part, reason)

    def _backward(self, part: Part, tally: Tally, first: bool) -> None:
        """Adds the gradients and statistics of all microbatches."""
        for microbatch in self._microbatches(part):
            loss, stats, largest = self._loss(microbatch)
            if not torch.isfinite(loss):
                raise TrainingError(self._not_finite(microbatch))
            loss.backward()
            tally.add({"loss": float(loss.detach()), **stats})
            if first:
                tally.log_ratio_max = max(tally.log_ratio_max, largest)

    def _halve(self, part: Part, reason: str) -> None:
        """Bounds microbatches by half of the one that was too large.

        Raises:
            TrainingError: It was one structure at one step.
        """
        self.optimizer.zero_grad(set_to_none=True)
        if part.trajectory.x_0.device.type == "cuda":
            torch.cuda.empty_cache()
        sizes = part.trajectory.x_0.layout.sizes[part.structures]
        n_steps = part.steps.stop - part.steps.start
        if len(sizes) == n_steps == 1:
            formula = part.trajectory.x_0.select([part.structures.start]).formulas()[0]
            raise TrainingError(
                f"a single structure at a single step, {formula}, does not fit into the learner's memory; give it more "
                f"(a larger GPU or share of one, fewer actors on its node), or train on smaller cells: {reason}"
            )
        pairs = sum(n * n for n in sizes) * n_steps
        self.microbatch_pairs = pairs // 2
        logger.warning(
            "the learner ran out of memory with %d ordered pairs of atoms in a microbatch, and goes on with %d; "
            "learner.microbatch_pairs=%d starts with that",
            pairs,
            self.microbatch_pairs,
            self.microbatch_pairs,
        )

    def _sum_gradients(self, graded: list[int]) -> None:
        """Gradients of all learners, of the parameters that have one on any of them."""
        if self.process_group.size == 1 or not graded:
            return
        parameters = [self.parameters[index] for index in graded]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        summed = self.process_group.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        for parameter, values in zip(parameters, summed.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = values.view_as(parameter).to(parameter)

    def trial(self, trajectory: Trajectory) -> tuple[float, int, int]:
        """Times one forward and backward pass without an update, for estimates.

        Returns:
            Seconds, bytes kept for the backward pass, and ordered pairs of atoms that the microbatch held.
        """
        advantage = torch.linspace(-1.0, 1.0, len(trajectory), dtype=torch.float64)
        microbatch = next(self._microbatches(Part.of(trajectory, advantage, len(trajectory))))
        start = time.perf_counter()
        with saved_bytes() as saved:
            loss, _, _ = self._loss(microbatch)
        loss.backward()
        elapsed = time.perf_counter() - start
        self.optimizer.zero_grad(set_to_none=True)
        return elapsed, sum(saved.values()), int(microbatch.crystals.n_atoms.square().sum())

    def _microbatches(self, whole: Part) -> Iterator[Microbatch]:
        """(structures × steps) blocks of at most `microbatch_pairs` ordered pairs; one structure and step at least."""
        trajectory, states = whole.trajectory, whole.states
        limit, n_steps, total = self.microbatch_pairs, trajectory.n_learned, len(trajectory)
        squares = trajectory.x_0.n_atoms.square().cumsum(0).cpu()
        start = 0
        while start < total:
            used = int(squares[start - 1]) if start else 0
            stop = max(start + 1, int(torch.searchsorted(squares, used + limit, right=True)))
            steps_each = max(1, limit // (int(squares[stop - 1]) - used))
            whole.structures, whole.steps = slice(start, stop), slice(0, min(steps_each, n_steps))
            part = trajectory if stop - start == total else trajectory.select(torch.arange(start, stop))
            atoms = slice(*trajectory.x_0.ptr[[start, stop]].tolist())
            pos, cell = states[0][:, atoms], states[1][:, start:stop]
            tiled = part.x_0.tile(min(steps_each, n_steps))
            for first in range(0, n_steps, steps_each):
                steps = range(first, min(first + steps_each, n_steps))
                if len(steps) * len(part) != len(tiled):
                    tiled = part.x_0.tile(len(steps))
                whole.steps = span = slice(steps.start, steps.stop)
                species = None if part.species is None else part.of_learned(part.species)[span].flatten()
                crystals = tiled.replace(pos[span].flatten(0, 1), cell[span].flatten(0, 1), species)
                advantage = whole.advantage[start:stop].to(pos)
                yield Microbatch(part, span, crystals, advantage, 1.0 / (n_steps * whole.total))
            start = stop

    def _loss(self, microbatch: Microbatch) -> tuple[Tensor, dict[str, float], float]:
        """Loss, statistics and largest |log-ratio| of a microbatch, weighted so that microbatches add up."""
        trajectory, steps, weight = microbatch.trajectory, microbatch.steps, microbatch.weight
        t, dt = (trajectory.of_learned(values)[steps] for values in (trajectory.times[:-1], trajectory.times.diff()))
        # One time per structure and step, so that all steps of the block share a network call.
        t_each, dt_each = (values.repeat_interleave(len(trajectory)) for values in (t, dt))
        block = Block(microbatch.crystals, t_each, dt_each)
        outputs = self.policy.at(trajectory.precision).outputs(block.crystals, block.t)
        base = {name: values[steps].flatten(0, 1) for name, values in trajectory.base_outputs.items()}
        loss = torch.zeros((), device=t.device)
        stats: dict[str, float] = {}
        largest = 0.0
        for field in self.policy.active:
            log_prob, kl = self._densities(field, trajectory.actions(field)[steps], block, outputs, base, t, dt)
            log_ratio = log_prob - trajectory.log_prob[field][steps]
            # Where the KL is not known it has no weight, and is not reported.
            counted = torch.zeros_like(log_ratio) if kl is None else kl
            terms = self._terms(field, log_ratio, counted, microbatch.advantage, trajectory)
            policy_weight, kl_weight = self.objective.policy_weight.of(field), self.objective.kl_weight.of(field)
            loss = loss + weight * (policy_weight * terms.policy.sum() + kl_weight * terms.kl.sum())
            reported = {"policy_loss": terms.policy, "clip_fraction": terms.clipped}
            for name, values in (reported if kl is None else {**reported, "kl": terms.kl}).items():
                stats[f"{name}_{field}"] = weight * float(values.detach().sum())
            largest = max(largest, float(log_ratio.detach().abs().max()))
            for extra in (
                self._entropy(field, trajectory, t, weight, stats),
                self._distillation(field, block, outputs, base, weight, stats),
            ):
                loss = loss if extra is None else loss + extra
        return loss, stats, largest

    def _densities(
        self, field: FieldName, action: Tensor, block: Block, outputs: Outputs, base: Outputs, t: Tensor, dt: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Log-density of the actions, and KL to the base (None where it is not known), per atom or structure (K, ·)."""
        drift = self.policy.drift
        rate = components(drift.rate(field, outputs, block.t, block.crystals, block.dt).view_as(action))
        t, dt = t[:, None, None], dt[:, None, None]
        sigma = self.policy.noise[field].sigma(t)
        log_prob = log_density(components(action), rate * dt, sigma.square() * dt).sum(-1)
        if not (base or drift.per_structure):
            return log_prob, None
        reference = drift.reference().rate(field, base, block.t, block.crystals, block.dt).view_as(action)
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
        """Weighted negative entropy of learned noise; over all atoms of a structure only where their ratios are."""
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
        self, field: FieldName, block: Block, outputs: Outputs, base: Outputs, weight: float, stats: dict[str, float]
    ) -> Tensor | None:
        """Weighted squared distance of the denoiser to the base's, averaged over the atoms of a structure."""
        factor, name = self.objective.distillation_weight.of(field), DENOISER[field]
        if not factor or name not in outputs:
            return None
        squares = (outputs[name] - base[name]).square().flatten(1).sum(-1)
        distance = (block.crystals.layout.mean(squares) if field == "pos" else squares).sum()
        stats[f"distillation_{field}"] = weight * float(distance.detach())
        return weight * factor * distance

    def _terms(
        self, field: FieldName, log_ratio: Tensor, kl: Tensor, advantage: Tensor, trajectory: Trajectory
    ) -> Terms:
        if field == "cell" or self.policy.drift.per_structure:
            return structure_terms(log_ratio, kl, advantage, self.objective.clip)
        layout, reduction = trajectory.x_0.layout, self.objective.position_reduction
        return position_terms(log_ratio, kl, advantage, layout, self.objective.clip, reduction)

    @staticmethod
    def _not_finite(microbatch: Microbatch) -> str:
        trajectory = microbatch.trajectory
        formulas = _listed(trajectory.x_0.formulas())
        numbers = torch.arange(trajectory.n_steps, device=trajectory.times.device)
        steps = trajectory.of_learned(numbers)[microbatch.steps].tolist()
        return (
            f"the loss is not finite at steps {steps[0]} to {steps[-1]} "
            f"of compositions {formulas}; lower learner.lr or objective.policy_weight"
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Optimizer state as named tensors on the CPU, ready for a file; the weights belong to the model."""
        return {name: value.cpu().contiguous() for name, value in flatten_optimizer(self.optimizer).items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`, of which it keeps copies."""
        restore_optimizer(self.optimizer, {name: value.clone() for name, value in state.items()})


def _listed(formulas: Iterable[str]) -> str:
    return ", ".join(sorted(set(formulas)))


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in ALLOCATOR_ERRORS)
