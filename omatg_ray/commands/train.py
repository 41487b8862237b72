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

from omatg_ray.commands.checkpoint import Progressed, name_of, restore, save
from omatg_ray.commands.prepare import Parts, prepare
from omatg_ray.commands.setup import describe_run, kept, refuse_changes, refuse_other_crystals
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
        model: Folder of the best checkpoint.
        rows: Evaluations on the test split, as `Evaluation.as_dict` gives them: the base, then the best checkpoint
            without noise and with that of the policy.
        report: The report.
    """

    model: Path
    rows: list[dict[str, Any]] = field(repr=False)
    report: Path


def train(config: Config, resume: bool = False, progress: bool = True) -> TrainResult:
    """Reinforces a model.

    `best` is the checkpoint with the lowest mean relative energy on the validation split; if anything else than the
    energy is rewarded, that with the highest mean reward of the crystals generated for it.

    Args:
        config: The run.
        resume: Go on with the run in `config.run` from its last checkpoint, exactly.
        progress: Show progress.

    Raises:
        ConfigError: As `prepare`; or the run folder holds a run already, or none to go on with, or one with other
            settings, crystals or potential.
        ModelError: As `prepare`; or the run to go on with has another network.
        ClusterError: There is no Ray cluster, it has no room for the run, or an actor died; the last checkpoint stays.
        TrainingError: The loss is not finite or too many rewards failed; the last checkpoint stays.
        RewardError: As `prepare`; or a reward does not keep to its contract; the last checkpoint stays.
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
        return TrainResult(folder.checkpoints / "best", rows, write_report(folder.path))


def _again(folder: RunFolder, error: OmatgRayError) -> str:
    """How to go on after a failure that was none of the run itself."""
    resume = f"; go on with: omatg-ray train --resume {folder.path}"
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
    if start < total:
        _forget_results(folder)
    keep_actors = ActorsFile(folder.actors_path, force.actors)
    keep_actors()

    def validate() -> float:
        """Mean relative energy, invalid crystals at the cap; minus the mean reward if that is not the energy alone."""
        steps = config.validation.steps or config.rollout.steps
        evaluation = evaluate(parts.model, steps, config.validation.noise)
        metrics = evaluation.metrics
        logged = {k: math.nan if v is None else v for k, v in metrics.as_dict().items()}
        if config.reward.energy_alone:
            score = logged["relative_energy_mean_capped"]
            said = f"relative energy {score:+.3f} eV/atom"
        else:
            blocks = torch.arange(metrics.n).split(config.validation.block)
            rewards = torch.cat(list(force.bench.judge([evaluation.crystals.select(rows) for rows in blocks])))
            score = -float(rewards.nanmean())
            logged["reward_mean"] = -score
            said = f"reward {-score:.3f}"
        log.log("validation", trainer.iteration, logged)
        bar.note(
            f"iteration {trainer.iteration}: validation {said}, match rate {metrics.match_rate:.3f}, "
            f"invalid {metrics.invalid_share:.1%}"
        )
        return score if math.isfinite(score) else math.inf

    def checkpoint(is_best: bool) -> None:
        timeline = force.timeline()
        if timeline is not None:
            timeline.write(folder.timeline_path)
        progressed = Progressed(trainer.iteration, best, crew.state_dict())
        save(folder, parts.model, progressed, config.checkpoint.keep, is_best)

    with (
        MetricsLog(folder.path, resume_from=None if done is None else start) as log,
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
            watch(trainer.iteration, metrics)
            is_best, last = False, trainer.iteration == total
            if last or trainer.iteration % config.validation.every == 0:
                began = time.perf_counter()
                score = validate()
                metrics["time_validation"] = time.perf_counter() - began
                # Without any score so far, the newest is the best there is, and not the start.
                is_best, best = score < best or math.isinf(best), min(score, best)
            log.log("train", trainer.iteration, metrics)
            bar.advance(shown(metrics))
            if last or is_best or trainer.iteration % config.checkpoint.every == 0:
                checkpoint(is_best)
                saved = trainer.iteration
        if saved < trainer.iteration:
            checkpoint(is_best=False)
    if trainer.iteration == total and folder.pointed_at("best") == name_of(0):
        logger.warning("no validation was better than the first: checkpoints/best is the model before reinforcement")
    return trainer.iteration


def _first_shift(folder: RunFolder) -> float | None:
    """The shift of the second potential in the first iteration that logged one."""
    lines = read_metrics(folder.path / "metrics.jsonl")
    return next((line[SHIFT] for line in lines if line["kind"] == "train" and line.get(SHIFT) is not None), None)


def shown(metrics: Mapping[str, float]) -> dict[str, str]:
    """What the progress bar shows of an iteration, short enough for a terminal of 80 columns."""

    def of_fields(name: str, form: str) -> str:
        return ",".join(form.format(metrics[key]) for key in (f"{name}_pos", f"{name}_cell") if key in metrics) or "-"

    with_energy = "energy_mean" in metrics
    return {
        "E" if with_energy else "reward": f"{metrics['energy_mean' if with_energy else 'reward_mean']:.2f}",
        "invalid": f"{metrics['invalid_share']:.1%}",
        "clip": of_fields("clip_fraction", "{:.0%}"),
        "KL": of_fields("kl", "{:.2g}"),
        "s": "+".join(f"{metrics[key]:.1f}" for key in ("time_rollout", "time_reward", "time_learn")),
    }


def _compare(
    config: Config, parts: Parts, bench: Bench, folder: RunFolder, stop: StopRequest, progress: bool
) -> list[dict[str, Any]]:
    """Before and after on the test split, without noise and with that of the policy; stops early if asked to."""
    test = parts.split.test
    evaluate = Evaluator(
        test, bench, config.seed, chunk_pairs=config.validation.chunk_pairs, block=config.validation.block
    )
    best = FlowModel.load(folder.checkpoints / "best", parts.model.device)
    label = f"reinforced ({folder.pointed_at('best')})"
    # A frozen annealing is no merit of the reinforcement: the base has it too. One that was learned is.
    start = parts.start if best.description.variant == "annealing" else parts.start.annealed_as(best)
    runs: list[tuple[str, str, FlowModel, NoiseMode]] = [
        ("before", "base", start, "none"),
        ("after", label, best, "none"),
        ("after_noise", f"{label}, policy noise", best, "policy"),
    ]
    results: dict[str, Evaluation] = {}
    for name, label, model, noise in runs:
        results[name] = evaluate(model, config.rollout.steps, noise, label=label, progress=progress)
        write_json(folder.evaluation / f"{name}.json", results[name].as_dict())
        if stop.requested:
            return []
    for name, crystals, energy in (
        ("before", results["before"].crystals, results["before"].energy),
        ("after", results["after"].crystals, results["after"].energy),
        ("reference", test.crystals, evaluate.reference_energy),
    ):
        path = folder.structures / f"{name}.extxyz"
        write_structures(path, crystals.to_structures(), properties(test.ids, energy))
    return [evaluation.as_dict() for evaluation in results.values()]


def properties(ids: Sequence[str], energy: Tensor | None) -> list[dict[str, Any]]:
    """Columns written beside structures."""
    if energy is None:
        return [{"material_id": ident} for ident in ids]
    return [{"material_id": i, "energy_per_atom": e} for i, e in zip(ids, energy.tolist(), strict=True)]
