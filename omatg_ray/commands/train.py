"""`omatg-ray train`: reinforce a model by policy gradients on its velocity field."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omatg_ray.commands.checkpoint import Progressed, iteration_of, restore, save
from omatg_ray.commands.prepare import Parts, prepare
from omatg_ray.commands.setup import (
    describe_run,
    kept,
    refuse_changes,
    refuse_other_crystals,
    tracking_of,
    warn_generated_species,
)
from omatg_ray.commands.workforce import ActorsFile, Workforce, workforce
from omatg_ray.config import Config
from omatg_ray.crystal.write import write_structures
from omatg_ray.errors import ClusterError, ConfigError, OmatgRayError, RewardError, TrainingError
from omatg_ray.evaluate.bench import Bench
from omatg_ray.evaluate.evaluation import Evaluation, Evaluator
from omatg_ray.evaluate.report import write_report
from omatg_ray.model import FlowModel, NoiseMode
from omatg_ray.rl.divergence import SHIFT, DivergenceWatch
from omatg_ray.rl.trainer import Trainer
from omatg_ray.run.atomic import write_json
from omatg_ray.run.folder import RunFolder
from omatg_ray.run.interrupt import Interrupted, StopRequest
from omatg_ray.run.metrics import MetricsLog, read_metrics
from omatg_ray.run.progress import Progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What a run produced.

    Attributes:
        model: Folder of the best checkpoint, or its URL.
        iteration: Iterations after which it was taken; 0 where no validation was better than the one before any.
        rows: Evaluations on the test split, as `Evaluation.as_dict` gives them: the base, then the best checkpoint
            without noise and with that of the policy.
        report: The report.
        generates_species: Whether the model takes numbers of atoms instead of formulas.
    """

    model: Path | str
    iteration: int
    rows: list[dict[str, Any]] = field(repr=False)
    report: Path | str
    generates_species: bool


def train(config: Config, resume: bool | Path = False, progress: bool = True) -> TrainResult:
    """Reinforces a model.

    `best` is the checkpoint with the lowest mean relative energy on the validation split; if anything else than the
    energy is rewarded, or species are generated, that with the highest mean reward of the crystals generated for it.

    Args:
        config: The run.
        resume: Go on with the run in `config.run` from its last checkpoint, exactly. Where that is a URL, this may be
            the scratch folder that an earlier process could not store there.
        progress: Show progress.

    Raises:
        ConfigError: As `prepare`; or the run folder holds a run already, or none to go on with, or one with other
            settings, crystals or potential.
        ModelError: As `prepare`; or the run to go on with has another network.
        ClusterError: There is no Ray cluster, it has no room for the run, or an actor died; the last checkpoint stays.
        TrainingError: The loss is not finite or too many rewards failed; the last checkpoint stays.
        RewardError: As `prepare`; or a reward does not keep to its contract; the last checkpoint stays.
        StorageError: The URL of the run cannot be reached, or the end of the run not be stored; names the folder that
            holds it.
        Interrupted: Stopped by the user at an iteration boundary, with a checkpoint.
    """
    parts = prepare(config, progress)
    with RunFolder.create(config.run, resume) as folder, StopRequest("this iteration") as stop:
        checkpoint = folder.latest_checkpoint() if resume else None
        done = None if checkpoint is None else restore(folder, checkpoint, parts.model)
        refuse_changes(folder, config)
        refuse_other_crystals(folder, parts.split)
        if done is not None and done.iteration > config.iterations:
            raise ConfigError(f"iterations: the run has done {done.iteration} already, more than {config.iterations}")
        with workforce(config, parts, progress) as force:
            if stop.requested:
                raise Interrupted("stopped before it began; nothing was done")
            if done is not None:
                force.crew.load_state_dict(done.learner, done.iteration)
            describe_run(folder, config, parts.split)
            try:
                iteration = _reinforce(config, parts, force, folder, done, stop, progress)
                if not stop.requested:
                    rows = _compare(config, parts, force.bench, folder, stop, progress)
            except (TrainingError, ClusterError, RewardError) as error:
                raise type(error)(f"{str(error).rstrip('.')}. {kept(folder)}{_again(folder, error)}") from error
        if stop.requested:
            raise Interrupted(
                f"stopped after iteration {iteration} of {config.iterations}; "
                f"go on with: omatg-ray train --resume {config.run}"
            )
        report = write_report(folder.path)
        best, species = folder.named(folder.checkpoints / "best"), parts.model.generates_species
        return TrainResult(best, best_iteration(folder), rows, folder.named(report), species)


def _again(folder: RunFolder, error: OmatgRayError) -> str:
    """How to go on after a failure that was none of the run itself."""
    resume = f"; go on with: omatg-ray train --resume {folder.named(folder.path)}"
    if isinstance(error, RewardError) and folder.pointed_at("last"):
        # The same code would fail again, and other code is another run.
        return f"{resume}; or, where code of a reward has to change, by a new run with base=this checkpoint"
    return resume if isinstance(error, ClusterError) else ""


def _forget_results(folder: RunFolder) -> None:
    """Removes the evaluations of a shorter run that goes on: they would pass for those of the new best checkpoint."""
    for path in (*folder.evaluation.glob("*.json"), *folder.structures.glob("*.extxyz")):
        path.unlink()


def _reinforce(
    config: Config,
    parts: Parts,
    force: Workforce,
    folder: RunFolder,
    done: Progressed | None,
    stop: StopRequest,
    progress: bool,
) -> int:
    """The loop: iterate, now and then validate, checkpoint. `done` is None at the very start.

    Returns:
        The iterations that are done.
    """
    total, crew = config.iterations, force.crew
    policy = parts.model.policy()
    # The base's outputs are recorded only where they count, but a scale's own reference is known.
    with_kl = config.objective.needs_base(policy) or policy.drift.per_structure
    start = 0 if done is None else done.iteration
    trainer = Trainer(config.rollout, parts.compositions, config.advantage, crew, config.seed, total, start)
    evaluate = Evaluator(
        parts.split.val,
        force.bench,
        config.seed,
        config.validation.limit,
        config.validation.chunk_pairs,
        config.validation.block,
    )
    # Energies of crystals of other compositions are comparable by the reward alone.
    by_energy = config.reward.energy_alone and not parts.model.generates_species
    warn_generated_species(parts.model)
    if start < total:
        _forget_results(folder)
    keep_actors = ActorsFile(folder.actors_path, force.actors)
    keep_actors()

    def validate() -> float:
        """Mean relative energy, invalid crystals at the cap; minus the mean reward where that is not what counts."""
        evaluation = evaluate(parts.model, config.validated_steps, config.validation.noise)
        metrics = evaluation.metrics
        logged = {k: math.nan if v is None else v for k, v in metrics.as_dict().items()}
        if by_energy:
            score = logged["relative_energy_mean_capped"]
            said = f"relative energy, capped mean {score:+.3f} eV/atom"
        else:
            blocks = torch.arange(metrics.n).split(config.validation.block)
            rewards = torch.cat(list(force.bench.judge([evaluation.crystals.select(rows) for rows in blocks])))
            score = -float(rewards.nanmean())
            logged["reward_mean"] = -score
            said = f"reward {-score:.3f}"
        log.log("validation", trainer.iteration, logged)
        matched = "" if metrics.match_rate is None else f", match rate {metrics.match_rate:.3f}"
        bar.note(f"iteration {trainer.iteration}: validation {said}{matched}, invalid {metrics.invalid_share:.1%}")
        return score if math.isfinite(score) else math.inf

    def checkpoint(is_best: bool) -> None:
        timeline = force.timeline()
        if timeline is not None:
            timeline.write(folder.timeline_path)
        progressed = Progressed(trainer.iteration, best, crew.state_dict())
        save(folder, parts.model, progressed, config.checkpoint.keep, is_best)

    with (
        MetricsLog(folder.path, None if done is None else start, tracking_of(config).start(folder.path)) as log,
        Progress(total, "train", start, progress) as bar,
    ):
        if done is None:
            best = validate()
            checkpoint(is_best=True)
        else:
            best = done.best
        saved = trainer.iteration
        watch = DivergenceWatch(_first_shift(folder) if start else None)
        while trainer.iteration < total and not stop.requested:
            metrics = trainer.step()
            keep_actors()
            if (trainer.iteration - 1) % len(
                config.rollout.turns
            ) == 0:  # what another grid gives compares with nothing
                watch(trainer.iteration, metrics)
            is_best, last = False, trainer.iteration == total
            if last or trainer.iteration % config.validation.every == 0:
                began = time.perf_counter()
                score = validate()
                metrics["time_validation"] = time.perf_counter() - began
                # Without any score so far, the newest is the best there is, and not the start.
                is_best, best = score < best or math.isinf(best), min(score, best)
            log.log("train", trainer.iteration, metrics)
            bar.advance(shown(metrics, clips=config.learner.epochs > 1, with_kl=with_kl))
            if last or is_best or trainer.iteration % config.checkpoint.every == 0:
                checkpoint(is_best)
                saved = trainer.iteration
        if saved < trainer.iteration:
            checkpoint(is_best=False)
    if trainer.iteration == total and best_iteration(folder) == 0:
        logger.warning("no validation was better than the first: checkpoints/best is the model before reinforcement")
    return trainer.iteration


def _first_shift(folder: RunFolder) -> float | None:
    """The shift of the second potential in the first iteration that logged one."""
    lines = read_metrics(folder.path / "metrics.jsonl")
    return next((line[SHIFT] for line in lines if line["kind"] == "train" and line.get(SHIFT) is not None), None)


def best_iteration(folder: RunFolder) -> int:
    """The iterations after which the best checkpoint was taken."""
    name = folder.pointed_at("best")
    assert name is not None  # the first validation points to one
    return iteration_of(name)


def shown(metrics: Mapping[str, float], clips: bool, with_kl: bool) -> dict[str, str]:
    """What the progress bar shows of an iteration, short enough for a terminal of 80 columns.

    Args:
        metrics: Of the iteration.
        clips: Whether ratios can be clipped; in the first epoch all are 1.
        with_kl: Whether the KL to the base is known.
    """

    def of_fields(name: str, form: str) -> str:
        return ",".join(form.format(metrics[key]) for key in (f"{name}_pos", f"{name}_cell") if key in metrics) or "-"

    # Of the energies the median: one crystal with overlapping atoms decides their mean.
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


def _compare(
    config: Config, parts: Parts, bench: Bench, folder: RunFolder, stop: StopRequest, progress: bool
) -> list[dict[str, Any]]:
    """Before and after on the test split, without noise and with that of the policy; stops early if asked to."""
    test = parts.split.test
    evaluate = Evaluator(
        test, bench, config.seed, chunk_pairs=config.validation.chunk_pairs, block=config.validation.block
    )
    best = FlowModel.load(folder.checkpoints / "best", parts.model.device)
    label = described_best(best_iteration(folder))
    # A frozen annealing is no merit of the reinforcement: the base has it too. One that was learned is.
    start = parts.start if best.description.variant == "annealing" else parts.start.annealed_as(best)
    runs: list[tuple[str, str, FlowModel, NoiseMode]] = [
        ("before", "base", start, "none"),
        ("after", label, best, "none"),
        ("after_noise", f"{label}, policy noise", best, "policy"),
    ]
    results: dict[str, Evaluation] = {}
    for name, label, model, noise in runs:
        results[name] = evaluate(model, config.validated_steps, noise, label=label, progress=progress)
        write_json(folder.evaluation / f"{name}.json", results[name].as_dict())
        if stop.requested:
            return []
    kept_crystals = [(name, results[name].crystals, results[name].energy) for name in ("before", "after")]
    if not best.generates_species:  # A row of these would be of other atoms.
        kept_crystals.append(("reference", test.crystals, evaluate.reference_energy))
    for name, crystals, energy in kept_crystals:
        path = folder.structures / f"{name}.extxyz"
        write_structures(path, crystals.to_structures(), properties(test.ids, energy))
    return [evaluation.as_dict() for evaluation in results.values()]


def described_best(iteration: int) -> str:
    """What tables call the best checkpoint."""
    if not iteration:
        return "best is iteration 0: not reinforced"
    return f"reinforced, {iteration} iteration{'s' if iteration > 1 else ''}"


def properties(ids: Sequence[str], energy: Tensor | None) -> list[dict[str, Any]]:
    """Columns written beside structures."""
    if energy is None:
        return [{"material_id": ident} for ident in ids]
    return [{"material_id": i, "energy_per_atom": e} for i, e in zip(ids, energy.tolist(), strict=True)]
