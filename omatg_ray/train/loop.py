"""The loop of a reinforcement run: iterate, validate, save checkpoints. The caller decides when to stop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType

import torch
from torch import Tensor

from omatg_ray.config import Config
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.evaluate.backend import Backend
from omatg_ray.evaluate.cases import CASES
from omatg_ray.evaluate.evaluator import Evaluator
from omatg_ray.evaluate.metrics import REWARD, mean
from omatg_ray.evaluate.rewards import SUM, metric_of
from omatg_ray.model.checks import warn_generated_species
from omatg_ray.model.sampling import Sampling
from omatg_ray.rl.backend import TrainingBackend
from omatg_ray.rl.divergence import SHIFT, DivergenceWatch
from omatg_ray.rl.trainer import Trainer
from omatg_ray.run.atomic import remove_folder
from omatg_ray.run.folder import RunFolder
from omatg_ray.run.metrics import MetricsLog, read_metrics
from omatg_ray.run.progress import Progress
from omatg_ray.train.callback import APART, Callback, StopRun
from omatg_ray.train.checkpoint import Progressed, iteration_of, save
from omatg_ray.train.components import RunComponents
from omatg_ray.train.record import actors_writer, tracking_of

logger = logging.getLogger(__name__)


class TrainLoop:
    """Training of a run in its folder. A context manager: closing it closes the logs.

    Args:
        config: The run.
        parts: Its components; the model is updated in place.
        backend: Does the work. If the run is resumed, its training state has been restored already.
        folder: Run folder to write to.
        done: Progress so far; None for a new run.
        progress: Show progress.
        callback: Called after every iteration and validation; may stop the run.

    Attributes:
        best: The lowest score of a validation so far; infinite if none was a number.
        validation: Metrics of the last validation in this process.
        metrics: Metrics of the last iteration in this process.
        score: Score of the last validation in this process.
        unmeasured: Metrics that this run does not measure, as seen in the last validation in this process.
    """

    def __init__(
        self,
        config: Config,
        parts: RunComponents,
        backend: Backend,
        folder: RunFolder,
        done: Progressed | None,
        progress: bool,
        callback: Callback | None = None,
    ) -> None:
        self.config, self.total = config, config.iterations
        self._parts, self._backend, self._folder, self._progress = parts, backend, folder, progress
        self._callback = Callback() if callback is None else callback
        self._stopped = False
        policy = parts.model.policy()
        # The base's outputs are recorded only if they are needed, but the reference of a learned scale is always known.
        self._with_kl = config.by_policy and (config.objective.needs_base(policy) or policy.drift.per_structure)
        # In the first epoch on trajectories sampled with the current weights, all ratios are 1.
        self._clips = config.by_policy and (config.learner.epochs > 1 or config.rollout.max_staleness > 0)
        self._start = 0 if done is None else done.iteration
        replay = parts.replay(config)
        if replay is not None and done is not None:
            replay.load_state_dict(done.replay)
        elif replay is not None and replay.settings.known:
            known = parts.split.train.crystals
            replay.begin(known, _score(known, backend.train, config.validation.block, progress))
        self._trainer = Trainer(
            config.rollout,
            parts.compositions,
            config.advantage,
            backend.train,
            config.seed,
            self.total,
            self._start,
            by_policy=config.by_policy,
            by_gradient=config.objective.reward_gradient is not None,
            training_crystals=parts.training_crystals(config),
            replay=replay,
            epochs=config.learner.epochs,
        )
        self._evaluate = Evaluator(
            parts.split.val,
            backend.evaluate,
            config.seed,
            config.validation.limit,
            config.validation.chunk_pairs,
            config.validation.block,
        )
        # Energies of crystals of different compositions can only be compared through the reward.
        self._by_energy = config.reward.energy_alone and not parts.model.generates_species
        warn_generated_species(parts.model)
        if self._start < self.total:
            _forget_results(folder)
        self._keep_actors = actors_writer(folder.actors_path, backend.info)
        self._keep_actors()
        self._fresh = done is None
        self.best = math.inf if done is None else done.best
        self.validation: dict[str, float] = {}
        self.metrics: dict[str, float] = {}
        self.score = math.inf
        self.unmeasured: set[str] = set()
        self._stack = ExitStack()

    def __enter__(self) -> TrainLoop:
        with ExitStack() as stack:
            sinks = tracking_of(self.config).start(self._folder.path)
            log = MetricsLog(self._folder.path, None if self._fresh else self._start, sinks)
            self._log = stack.enter_context(log)
            self._bar = stack.enter_context(Progress(self.total, "train", self._start, self._progress))
            self._saved = self.iteration
            if self._fresh:
                score = self._validate(DivergenceWatch())
                self.best = score
                self.checkpoint(is_best=True)
            self._watch = DivergenceWatch(_first_shift(self._folder) if self._start else None)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    @property
    def iteration(self) -> int:
        """Number of finished iterations."""
        return self._trainer.iteration

    @property
    def done(self) -> bool:
        """Whether all iterations are finished, or the callback has stopped the run."""
        return self._stopped or self.iteration >= self.total

    def iterate(self) -> bool:
        """Run one iteration, with the validation and the checkpoint that are due after it.

        Returns:
            Whether it ended with a validation.

        Raises:
            TrainingError: As `Trainer.step`.
            ClusterError: As `Trainer.step`.
        """
        config = self.config
        self.metrics = metrics = self._trainer.step()
        self._keep_actors()
        # Iterations with other grid points, or noise in other steps, cannot be compared, so look once per period.
        if (self.iteration - 1) % config.rollout.period == 0:
            self._watch(self.iteration, metrics)
        self._tell(self._callback.iterated, metrics)
        is_best, validated = False, self.done or self.iteration % config.validation.every == 0
        if validated:
            began = time.perf_counter()
            score = self._validate(self._watch)
            metrics["time_validation"] = time.perf_counter() - began
            # As long as no score was a number, the newest checkpoint counts as the best, not the initial one.
            is_best, self.best = score < self.best or math.isinf(self.best), min(score, self.best)
        self._log.log("train", self.iteration, metrics)
        self._bar.advance(format_metrics(metrics, clips=self._clips, with_kl=self._with_kl))
        if self.done or is_best or self.iteration % config.checkpoint.every == 0:
            self.checkpoint(is_best)
        return validated

    def progressed(self) -> Progressed:
        """Return the state from which the run can be resumed exactly."""
        replay = self._trainer.replay
        kept = {} if replay is None else replay.state_dict()
        return Progressed(self.iteration, self.best, self._backend.train.state_dict(), kept)

    def checkpoint(self, is_best: bool) -> None:
        """Save a checkpoint in the run folder."""
        timeline = self._backend.timeline()
        if timeline is not None:
            timeline.write(self._folder.timeline_path)
        save(self._folder, self._parts.model, self.progressed(), self.config.checkpoint.keep, is_best)
        self._saved = self.iteration

    def finish(self) -> int:
        """Save unsaved progress, and warn if no validation improved on the first.

        Returns:
            The number of finished iterations.
        """
        if self._saved < self.iteration:
            self.checkpoint(is_best=False)
        if self.done and best_iteration(self._folder) == 0:
            logger.warning(
                "no validation was better than the first: checkpoints/best is the model before reinforcement"
            )
        return self.iteration

    def _validate(self, watch: DivergenceWatch) -> float:
        """Validate, log the metrics and return the score; lower is better.

        If only the energy is rewarded, and species are given, the score is the mean relative energy with invalid
        crystals at the cap. Otherwise it is minus the mean reward. `validation.best` may put minus the share that is
        closest to the lowest polymorph in its place. A score that is not finite is returned as infinite.
        """
        config, parts = self.config, self._parts
        evaluation = self._evaluate(parts.model, Sampling(config.validated_steps, noise=config.validation.noise))
        metrics = evaluation.metrics
        logged = {k: math.nan if v is None else v for k, v in metrics.as_dict().items()}
        # None: not measured in this run. NaN: measured but undefined, such as the RMSE if nothing matches.
        self.unmeasured = {name for name in logged if getattr(metrics, name) is None}
        if self._by_energy:
            self.unmeasured.add(REWARD)
            score = logged["relative_energy_mean_capped"]
            result = f"relative energy, capped mean {score:+.3f} eV/atom"
        else:
            score = -float(evaluation.rewards[SUM].nanmean())
            logged[REWARD] = -score
            result = f"reward {-score:.3f}"
        if config.validation.best == "match_lowest":
            score = -logged["match_lowest"]
            result = f"closest to the lowest polymorph {-score:.3f}, {result}"
        logged |= {metric_of(name): mean(rows) for name, rows in evaluation.rewards.items() if name != SUM}
        logged |= self._tell(self._callback.validated, logged | {APART: float(watch.apart)})
        self.validation = logged
        self._log.log("validation", self.iteration, logged)
        matched = "" if metrics.match_rate is None else f", match rate {metrics.match_rate:.3f}"
        self._bar.note(f"iteration {self.iteration}: validation {result}{matched}, invalid {metrics.invalid_share:.1%}")
        self.score = score if math.isfinite(score) else math.inf
        return self.score

    def _tell(
        self, observer: Callable[[int, Mapping[str, float]], Mapping[str, float] | None], metrics: Mapping[str, float]
    ) -> Mapping[str, float]:
        """Call a method of the callback, which may stop the run, and return what it wants to be logged."""
        try:
            return observer(self.iteration, metrics) or {}
        except StopRun as stop:
            self._stopped = True
            self._bar.note(f"iteration {self.iteration}: stopped{f': {stop}' if str(stop) else ''}")
            return {}


def _score(crystals: CrystalBatch, backend: TrainingBackend, block: int, progress: bool) -> Tensor:
    """Return the rewards of known crystals."""
    rewards = list[Tensor]()
    batches = [crystals.select(rows) for rows in torch.arange(len(crystals)).split(block)]
    with Progress(len(crystals), "reward of the training crystals", shown=progress) as bar:
        for batch, reward in zip(batches, backend.score(batches), strict=True):
            rewards.append(reward)
            bar.advance(steps=len(batch))
    return torch.cat(rewards)


def _forget_results(folder: RunFolder) -> None:
    """Remove the evaluations of a shorter run that is being extended.

    Otherwise they would look like those of the new best checkpoint.
    """
    for path in (*folder.evaluation.glob("*.json"), *folder.structures.glob("*.extxyz")):
        path.unlink()
    if (folder.evaluation / CASES).exists():
        remove_folder(folder.evaluation / CASES)


def _first_shift(folder: RunFolder) -> float | None:
    """Return the shift of the second potential in the first iteration that logged one."""
    lines = read_metrics(folder.path / "metrics.jsonl")
    return next((line[SHIFT] for line in lines if line["kind"] == "train" and line.get(SHIFT) is not None), None)


def best_iteration(folder: RunFolder) -> int:
    """Return the number of iterations after which the best checkpoint was saved."""
    name = folder.pointed_at("best")
    assert name is not None  # the first validation points to one
    return iteration_of(name)


def format_metrics(metrics: Mapping[str, float], clips: bool, with_kl: bool) -> dict[str, str]:
    """Return what the progress bar shows of an iteration, short enough for a terminal of 80 columns.

    Args:
        metrics: Metrics of the iteration.
        clips: Whether ratios can be clipped; in the first epoch all are 1.
        with_kl: Whether the KL to the base is known.
    """

    def of_fields(name: str, form: str) -> str:
        return ",".join(form.format(metrics[key]) for key in (f"{name}_pos", f"{name}_cell") if key in metrics) or "-"

    # The median energy: a single crystal with overlapping atoms would dominate the mean.
    with_energy = "energy_median" in metrics
    values = {
        "E" if with_energy else "reward": f"{metrics['energy_median' if with_energy else 'reward_mean']:.2f}",
        "invalid": f"{metrics['invalid_share']:.1%}",
    }
    if clips:
        values["clip"] = of_fields("clip_fraction", "{:.0%}")
    if with_kl:
        values["KL"] = of_fields("kl", "{:.2g}")
    return values | {"s": "+".join(f"{metrics[key]:.1f}" for key in ("time_rollout", "time_reward", "time_learn"))}
