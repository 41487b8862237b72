"""The learner: PPO epochs over the trajectories of an iteration, in microbatches of bounded size.

Several learners may share an iteration: each computes the gradients of its part, then all take the same step.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import TrainingError
from omatg_ray.flow.activations import saved_bytes
from omatg_ray.flow.examples import Examples
from omatg_ray.flow.process_group import ProcessGroup, SingleProcess
from omatg_ray.policy.policy import Policy
from omatg_ray.reward.gradient import Gradient
from omatg_ray.rl.flow_matching import matching_loss
from omatg_ray.rl.loss import Loss
from omatg_ray.rl.microbatch import Cut, Microbatch, Part, spans_by_pairs
from omatg_ray.rl.pathwise import Pathwise
from omatg_ray.rl.rollout import Trajectory
from omatg_ray.rl.settings import MATCHING, LearnerSettings, ObjectiveSettings
from omatg_ray.run.optimizer_state import flatten_optimizer, restore_optimizer

logger = logging.getLogger(__name__)

ALLOCATOR_ERRORS = ("can't allocate memory", "not enough memory")
"""Messages of PyTorch's CPU allocators on Linux and Windows, raised as plain RuntimeError."""


@dataclass
class Report:
    """Running statistics of an update, which a learner sends to the others before every step.

    Attributes:
        sums: Its statistics, summed over the epochs so far.
        log_ratio_max: Largest |log-ratio| of its part in the first epoch.
        graded: Indices of the parameters that have a gradient.
        microbatch_pairs: Its current bound.
        error: Why it cannot take the step.
    """

    sums: dict[str, float] = field(default_factory=dict)
    log_ratio_max: float = 0.0
    graded: list[int] = field(default_factory=list)
    microbatch_pairs: int = 0
    error: str | None = None


class Trial(NamedTuple):
    """A network call that was timed.

    Attributes:
        seconds: Of its forward and backward pass.
        memory: Bytes that it keeps for the backward pass.
        pairs: Its ordered pairs of atoms.
    """

    seconds: float
    memory: int
    pairs: int


class Learner:
    """Updates a policy.

    Args:
        policy: Policy that sampled; its densities are compared and its weights trained.
        objective: Loss.
        settings: Optimizer.

    Attributes:
        process_group: Learners with the same weights and optimizer that share every update.
        microbatch_pairs: Ordered pairs of atoms per network call: that of the settings, or fewer after memory ran out.
    """

    def __init__(self, policy: Policy, objective: ObjectiveSettings, settings: LearnerSettings) -> None:
        self.policy, self.objective, self.settings = policy, objective, settings
        self.loss = Loss(policy, objective)
        self.parameters = policy.trainable_parameters()
        by = objective.reward_gradient
        self.pathwise = None if by is None else Pathwise(policy, self.parameters, by)
        self.optimizer = torch.optim.Adam(self.parameters, lr=settings.lr)
        self.process_group: ProcessGroup = SingleProcess()
        self.microbatch_pairs = settings.microbatch_pairs

    def update(
        self,
        trajectory: Trajectory | None,
        advantage: Tensor | None,
        total: int | None = None,
        gradient: Gradient | None = None,
        examples: Mapping[str, Sequence[Examples]] | None = None,
    ) -> dict[str, float]:
        """Run all epochs on one iteration's trajectories, or on this learner's part of them.

        If memory runs out, the epoch starts again with smaller microbatches; the result is the same up to rounding.

        Args:
            trajectory: Counted structures only; None if this learner has none.
            advantage: (B,); None: there is no policy gradient.
            total: Counted structures of all learners; by default those of `trajectory`.
            gradient: Gradients of their rewards, learned from as `objective.reward_gradient` says.
            examples: This learner's part of the flow-matching examples of every epoch, by source
                (`objective.matching_weight`).

        Returns:
            Over the structures of all learners, means over epochs of `loss`, `grad_norm` and, per active field,
            `policy_loss_*`, `clip_fraction_*`, `kl_*` (if the base's outputs were recorded), with learned noise
            `entropy_*` (per component) and `sigma_*`, with distillation `distillation_*`; `log_ratio_max` of the first
            epoch, the largest |log-ratio| of an atom or lattice, which is 0 up to rounding when on-policy; after
            memory has run out, the smallest `microbatch_pairs` of a learner. With reward gradients, those of
            `Pathwise.accumulate`; with examples, those of `matching_loss`.

        Raises:
            TrainingError: The loss or its gradient is not finite, or a single structure at a single step does not fit
                into memory; the step was not taken (earlier epochs were). Names the compositions. All learners raise
                the same.
        """
        part = None if trajectory is None else Part(trajectory, advantage, total or len(trajectory), gradient)
        report, norms, reports = Report(), 0.0, list[Report]()
        for epoch in range(self.settings.epochs):
            try:
                of_epoch = {source: each[epoch] for source, each in (examples or {}).items() if len(each[epoch])}
                report = self._gradients(part, of_epoch, report, first=epoch == 0)
            except TrainingError as error:
                report = Report(error=str(error))
            report.graded = [index for index, parameter in enumerate(self.parameters) if parameter.grad is not None]
            report.microbatch_pairs = self.microbatch_pairs
            reports = [Report(**values) for values in self.process_group.exchange(asdict(report))]
            for each in reports:
                if each.error is not None:
                    raise TrainingError(each.error)
            self._sum_gradients(sorted({index for each in reports for index in each.graded}))
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.grad_clip)
            if not torch.isfinite(norm):
                answers = self.process_group.exchange(
                    {"formulas": [] if part is None else part.trajectory.x_0.formulas()}
                )
                formulas = _join_formulas(formula for answer in answers for formula in answer["formulas"])
                raise TrainingError(f"the gradient is not finite; compositions of this iteration: {formulas}")
            self.optimizer.step()
            norms += float(norm)
        sums: dict[str, float] = {}
        for each in reports:
            _add(sums, each.sums)
        sums["grad_norm"] = norms
        means = {name: value / self.settings.epochs for name, value in sums.items()}
        pairs = min(each.microbatch_pairs for each in reports)
        changed = {"microbatch_pairs": pairs} if pairs < self.settings.microbatch_pairs else {}
        return means | {"log_ratio_max": max(each.log_ratio_max for each in reports)} | changed

    def _gradients(self, part: Part | None, examples: Mapping[str, Examples], before: Report, first: bool) -> Report:
        """Compute an epoch's gradients in microbatches that fit into memory; return the statistics including it."""
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            report, crystals, cut = replace(before, sums=before.sums.copy()), None, None
            try:
                if part is not None:
                    crystals = part.trajectory.x_0
                    for cut in part.cuts(self.microbatch_pairs):
                        self._backward(part.microbatch(cut), report, first)
                    for span in part.spans(self.microbatch_pairs):
                        cut = span, slice(0, 1)
                        assert self.pathwise is not None
                        _add(report.sums, self.pathwise.accumulate(*part.replay(span)))
                for source, of in examples.items():
                    crystals = of.state
                    for span in spans_by_pairs(crystals.layout.sizes, self.microbatch_pairs):
                        cut = span, slice(0, 1)
                        self._match(source, of.select(torch.arange(span.start, span.stop)), report)
            except RuntimeError as error:
                if cut is None or not _is_out_of_memory(error):
                    raise
                reason = str(error).splitlines()[0]
            else:
                return report
            finally:
                if part is not None:
                    part.forget()
            assert crystals is not None
            # Not in the handler: until it ends, the traceback keeps the microbatch's tensors alive.
            self._halve(crystals, cut, reason)

    def _match(self, source: str, examples: Examples, report: Report) -> None:
        """Add the gradients and statistics of flow matching on some examples."""
        loss, stats = matching_loss(self.policy, examples, self.objective.matching_weight(source), source)
        if not torch.isfinite(loss):
            key = "objective.flow_matching" if source == MATCHING else "objective.replay"
            raise TrainingError(
                f"the loss of flow matching ({key}) is not finite for crystals of compositions "
                f"{_join_formulas(examples.state.formulas())}; lower learner.lr or {key}.weight"
            )
        loss.backward()
        _add(report.sums, stats)

    def _backward(self, microbatch: Microbatch, report: Report, first: bool) -> None:
        """Add the gradients and statistics of a microbatch."""
        loss, stats, largest = self.loss(microbatch)
        if not torch.isfinite(loss):
            raise TrainingError(self._explain_not_finite(microbatch))
        loss.backward()
        _add(report.sums, {"loss": float(loss.detach()), **stats})
        if first:
            report.log_ratio_max = max(report.log_ratio_max, largest)

    def _halve(self, crystals: CrystalBatch, cut: Cut, reason: str) -> None:
        """Limit microbatches to half the size of the one that was too large.

        Raises:
            TrainingError: It was a single structure at a single step.
        """
        self.optimizer.zero_grad(set_to_none=True)
        if crystals.device.type == "cuda":
            torch.cuda.empty_cache()
        structures, steps = cut
        sizes, n_steps = crystals.layout.sizes[structures], steps.stop - steps.start
        if len(sizes) == n_steps == 1:
            formula = crystals.select([structures.start]).formulas()[0]
            raise TrainingError(
                f"a single structure at a single step, {formula}, does not fit into the learner's memory; give it more "
                f"(a larger GPU or share of one, fewer actors on its node) or train on smaller cells: {reason}"
            )
        pairs = sum(n * n for n in sizes) * n_steps
        self.microbatch_pairs = pairs // 2
        logger.warning(
            "the learner ran out of memory with %d ordered pairs of atoms in a microbatch and continues with %d; "
            "set learner.microbatch_pairs=%d to start with that",
            pairs,
            self.microbatch_pairs,
            self.microbatch_pairs,
        )

    def _sum_gradients(self, graded: list[int]) -> None:
        """Sum the gradients over all learners, for the parameters that have one on any of them."""
        if self.process_group.size == 1 or not graded:
            return
        parameters = [self.parameters[index] for index in graded]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        summed = self.process_group.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        for parameter, values in zip(parameters, summed.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = values.view_as(parameter).to(parameter)

    def trial(self, trajectory: Trajectory, by_policy: bool = True) -> Trial:
        """Time one microbatch without an update, for estimates: of the policy gradient, or of the reward gradient."""
        advantage = torch.linspace(-1.0, 1.0, len(trajectory), dtype=torch.float64) if by_policy else None
        gradient = None if by_policy else Gradient.zeros(trajectory.x_0.layout)
        part = Part(trajectory, advantage, len(trajectory), gradient)
        tried = self._try_policy(part) if by_policy else self._try_replay(part)
        self.optimizer.zero_grad(set_to_none=True)
        return tried

    def trial_of_matching(self, source: str, examples: Examples) -> Trial:
        """Time one microbatch of flow matching without an update."""
        span = spans_by_pairs(examples.state.layout.sizes, self.microbatch_pairs)[0]
        tried = examples.select(torch.arange(span.start, span.stop))
        for _ in range(2):  # the first one warms up
            start = time.perf_counter()
            with saved_bytes() as saved:
                self._match(source, tried, Report())
            elapsed = time.perf_counter() - start
        self.optimizer.zero_grad(set_to_none=True)
        return Trial(elapsed, sum(saved.values()), int(tried.state.n_atoms.square().sum()))

    def _try_policy(self, part: Part) -> Trial:
        microbatch = part.microbatch(part.cuts(self.microbatch_pairs)[0])
        start = time.perf_counter()
        with saved_bytes() as saved:
            loss, _, _ = self.loss(microbatch)
        loss.backward()
        elapsed = time.perf_counter() - start
        return Trial(elapsed, sum(saved.values()), int(microbatch.crystals.n_atoms.square().sum()))

    def _try_replay(self, part: Part) -> Trial:
        assert self.pathwise is not None
        replayed = part.replay(part.spans(self.microbatch_pairs)[0])
        trajectory = replayed[0]
        # Only the graph of one step exists at a time.
        settings = self.pathwise.settings.model_copy(update={"transitions": 1})
        with saved_bytes() as saved:
            replace(self.pathwise, settings=settings).accumulate(*replayed)
        start = time.perf_counter()
        self.pathwise.accumulate(*replayed)
        elapsed = time.perf_counter() - start
        n_steps = min(trajectory.n_steps, self.pathwise.settings.transitions)
        return Trial(elapsed / n_steps, sum(saved.values()), int(trajectory.x_0.n_atoms.square().sum()))

    @staticmethod
    def _explain_not_finite(microbatch: Microbatch) -> str:
        trajectory = microbatch.trajectory
        formulas = _join_formulas(trajectory.x_0.formulas())
        numbers = torch.arange(trajectory.n_steps, device=trajectory.times.device)
        steps = trajectory.of_learned(numbers)[microbatch.steps].tolist()
        return (
            f"the loss is not finite at steps {steps[0]} to {steps[-1]} "
            f"of compositions {formulas}; lower learner.lr or objective.policy_weight"
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Return the optimizer state as named tensors on the CPU, ready for a file; the model owns the weights."""
        return {name: value.cpu().contiguous() for name, value in flatten_optimizer(self.optimizer).items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore copies of what `state_dict` returned."""
        restore_optimizer(self.optimizer, {name: value.clone() for name, value in state.items()})


def _add(sums: dict[str, float], values: Mapping[str, float]) -> None:
    for name, value in values.items():
        sums[name] = sums.get(name, 0.0) + value


def _join_formulas(formulas: Iterable[str]) -> str:
    return ", ".join(sorted(set(formulas)))


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in ALLOCATOR_ERRORS)
