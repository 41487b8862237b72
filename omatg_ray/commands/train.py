"""`omatg-ray train`: reinforce a model by policy gradients on its velocity field."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from omatg_ray.commands.setup import (
    base_run_data,
    choose_device,
    describe_run,
    load_splits,
    set_threads,
    warn_unfamiliar,
    write_splits,
)
from omatg_ray.config import Config
from omatg_ray.crystal.split import Split
from omatg_ray.crystal.write import write_structures
from omatg_ray.errors import ConfigError
from omatg_ray.evaluate.evaluation import Evaluation, Evaluator, subset
from omatg_ray.evaluate.matching import Matcher
from omatg_ray.evaluate.report import write_report
from omatg_ray.model import FlowModel, ModelDescription
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.rl.learner import Learner
from omatg_ray.rl.trainer import Trainer
from omatg_ray.run.atomic import write_json
from omatg_ray.run.folder import RunFolder
from omatg_ray.run.interrupt import Interrupted, StopRequest
from omatg_ray.run.metrics import MetricsLog
from omatg_ray.run.progress import Progress
from omatg_ray.run.versions import versions

LEARNER_FILE, STATE_FILE = "learner.safetensors", "state.json"
SHOWN = (
    "energy_mean", "invalid_share", "clip_fraction_pos", "clip_fraction_cell", "kl_pos", "kl_cell",
    "time_rollout", "time_reward", "time_learn",
)  # fmt: skip


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
    rows: list[dict[str, Any]]
    report: Path


@dataclass(frozen=True)
class Parts:
    """A run put together from its configuration, before anything was written."""

    model: FlowModel
    split: Split
    reward: MatGLEnergy
    trainer: Trainer


def prepare(config: Config, progress: bool = False) -> Parts:
    """Loads the base, the crystals and the potential, and refuses early what could not run.

    Raises:
        ConfigError: `base`, `reward.potential` or the crystals are not named.
        ModelError: The base cannot be read, or acts on fields that the new policy would freeze.
        PotentialError: The potential cannot be loaded or does not know an element of the crystals.
    """
    if config.base is None:
        raise ConfigError("base: name the model to reinforce (base=runs/.../checkpoints/best)")
    if config.reward.potential is None:
        raise ConfigError("reward.potential: name a MatGL potential, or the folder of one")
    set_threads(config)
    device = choose_device(config.device)
    start = FlowModel.load(config.base, device)
    data = config.data
    if data.file is None and data.train is None:
        data = base_run_data(config.base) or data
    split = load_splits(data, progress)
    reward = MatGLEnergy(config.reward.potential, invalid_energy=config.reward.invalid_energy, device=device)
    reward.require_elements(split.train.elements | split.val.elements | split.test.elements)
    warn_unfamiliar(start, split.train.elements, split.train.sizes)
    model = reinforced(start, config)
    learner = Learner(model.network, model.policy(), config.objective, config.learner)
    crystals = split.train.crystals
    trainer = Trainer(
        config.rollout,
        [z.tolist() for z in crystals.species.split(crystals.layout.sizes)],
        model.description.base_distribution,
        reward,
        learner,
        config.advantage,
        config.seed,
        device,
    )
    return Parts(model, split, reward, trainer)


def reinforced(start: FlowModel, config: Config) -> FlowModel:
    """The model that training updates in place: the start's network, copied, over the start's frozen base.

    Raises:
        ConfigError: The start acts on a field that would be frozen and so fall back to the base.
    """
    lost = set(start.description.active) - set(config.policy.active)
    if lost:
        raise ConfigError(
            f"policy.active: {config.base} already acts on {', '.join(sorted(lost))}, which would fall back to its "
            "base; name these fields too"
        )
    description = start.description.model_copy(
        update={
            "active": list(config.policy.active),
            "noise": {field: config.policy.noise[field] for field in config.policy.active},
            "annealing": config.policy.annealing or start.description.annealing,
            "potential": config.reward.potential,
            "provenance": {
                "command": "train",
                "base": str(config.base),
                "base_provenance": start.description.provenance,
                "seed": config.seed,
                "versions": versions(),
            },
        }
    )
    return FlowModel(ModelDescription.model_validate(description), start.base_network, copy.deepcopy(start.network))


def train(config: Config, resume: bool = False, progress: bool = True) -> TrainResult:
    """Reinforces a model; `best` is the checkpoint with the lowest mean relative energy on the validation split.

    Args:
        config: The run.
        resume: Go on with the run in `config.run` from its last checkpoint, exactly.
        progress: Show progress.

    Raises:
        ConfigError: As `prepare`; or the run folder holds a run already, or none to go on with.
        TrainingError: The loss is not finite or too many rewards failed; the last checkpoint stays.
        Interrupted: Stopped by the user at an iteration boundary, with a checkpoint.
    """
    parts = prepare(config, progress)
    with (
        RunFolder.create(config.run, resume) as folder,
        StopRequest() as stop,
        Matcher(config.workers, config.validation.match_timeout) as matcher,
    ):
        if not resume:
            describe_run(folder, config)
            write_splits(folder, parts.split)
        _reinforce(config, parts, folder, matcher, stop, resume, progress)
        return _conclude(config, parts, folder, matcher, progress)


def _reinforce(
    config: Config, parts: Parts, folder: RunFolder, matcher: Matcher, stop: StopRequest, resume: bool, progress: bool
) -> None:
    """The loop: iterate, validate, checkpoint."""
    trainer, best = parts.trainer, math.inf
    validate = Evaluator(subset(parts.split.val, config.validation.limit), matcher, parts.reward, config.seed)
    steps = config.validation.steps or config.rollout.steps
    checkpoint = folder.latest_checkpoint() if resume else None
    if checkpoint is not None:
        best = restore(checkpoint, parts)
    with (
        MetricsLog(folder.path, resume_from=trainer.iteration if checkpoint is not None else None) as log,
        Progress(config.iterations, "train", trainer.iteration, progress) as bar,
    ):
        if checkpoint is None:
            best = _validated(validate, parts.model, steps, config, log, 0, bar)[0]
            save(folder, parts, config, best, is_best=True)
        saved = trainer.iteration
        while trainer.iteration < config.iterations and not stop.requested:
            metrics = trainer.step()
            iteration, is_best = trainer.iteration, False
            last = iteration == config.iterations
            if last or iteration % config.validation.every == 0:
                score, metrics["time_validation"] = _validated(validate, parts.model, steps, config, log, iteration, bar)
                is_best, best = score < best, min(score, best)
            log.log("train", iteration, metrics)
            bar.advance({name: metrics[name] for name in SHOWN if name in metrics})
            if last or is_best or iteration % config.checkpoint.every == 0:
                save(folder, parts, config, best, is_best)
                saved = iteration
        if saved < trainer.iteration:
            save(folder, parts, config, best, is_best=False)
    if trainer.iteration < config.iterations:
        raise Interrupted(
            f"stopped after iteration {trainer.iteration} of {config.iterations}; "
            f"go on with: omatg-ray train --resume {config.run}"
        )


def _validated(
    validate: Evaluator, model: FlowModel, steps: int, config: Config, log: MetricsLog, iteration: int, bar: Progress
) -> tuple[float, float]:
    """Score (mean relative energy, invalid ones at the cap) and seconds of a validation."""
    start = time.perf_counter()
    metrics = validate(model, steps, config.validation.noise).metrics.as_dict()
    log.log("validation", iteration, {k: math.nan if v is None else v for k, v in metrics.items()})
    score = metrics["relative_energy_mean_capped"]
    bar.note(
        f"iteration {iteration}: validation relative energy {metrics['relative_energy_mean_capped']:+.3f} eV/atom, "
        f"match rate {metrics['match_rate']:.3f}, invalid {metrics['invalid_share']:.1%}"
    )
    return math.inf if score is None else score, time.perf_counter() - start


def save(folder: RunFolder, parts: Parts, config: Config, best: float, is_best: bool) -> None:
    """A checkpoint at the present iteration boundary: the model, the optimizer, and where the run stands."""
    iteration = parts.trainer.iteration

    def write(path: Path) -> None:
        parts.model.save(path)
        save_file({k: v.cpu().contiguous() for k, v in parts.trainer.learner.state_dict().items()}, path / LEARNER_FILE)
        state = {"iteration": iteration, "best": best if math.isfinite(best) else None}
        (path / STATE_FILE).write_text(json.dumps(state) + "\n")

    name = f"iteration_{iteration:06d}"
    folder.save_checkpoint(name, write, config.checkpoint.keep)
    if is_best:
        folder.point_best(name)


def restore(checkpoint: Path, parts: Parts) -> float:
    """Puts the run back where a checkpoint left it; returns the best score so far."""
    trainer, device = parts.trainer, parts.trainer.device
    stored = FlowModel.load(checkpoint, device)
    parts.model.network.load_state_dict(stored.network.state_dict())
    trainer.learner.load_state_dict(load_file(checkpoint / LEARNER_FILE, device=str(device)))
    state = json.loads((checkpoint / STATE_FILE).read_text())
    trainer.iteration = state["iteration"]
    return math.inf if state["best"] is None else state["best"]


def _conclude(config: Config, parts: Parts, folder: RunFolder, matcher: Matcher, progress: bool) -> TrainResult:
    """Before and after on the test split, with and without noise, then the report."""
    test = parts.split.test
    evaluate = Evaluator(test, matcher, parts.reward, config.seed)
    best = FlowModel.load(folder.checkpoints / "best", parts.trainer.device)
    assert config.base is not None
    start = FlowModel.load(config.base, parts.trainer.device)
    if config.policy.annealing is not None:
        start.description = start.description.model_copy(update={"annealing": config.policy.annealing})
    runs = [
        ("before", "base", start, "none"),
        ("after", "reinforced", best, "none"),
        ("after_noise", "reinforced, policy noise", best, "policy"),
    ]
    results: dict[str, Evaluation] = {}
    with Progress(len(runs), "test", shown=progress) as bar:
        for name, label, model, noise in runs:
            results[name] = evaluate(model, config.rollout.steps, noise, label=label)  # type: ignore[arg-type]
            write_json(folder.evaluation / f"{name}.json", results[name].as_dict())
            bar.advance()
    for name, crystals, energy in (
        ("before", results["before"].crystals, results["before"].energy),
        ("after", results["after"].crystals, results["after"].energy),
        ("reference", test.crystals, evaluate.reference_energy),
    ):
        write_structures(
            folder.structures / f"{name}.extxyz", crystals.to_structures(), properties(test.ids, energy)
        )
    rows = [evaluation.as_dict() for evaluation in results.values()]
    return TrainResult(folder.checkpoints / "best", rows, write_report(folder.path))


def properties(ids: Sequence[str], energy: torch.Tensor | None) -> list[dict[str, Any]]:
    """Columns written beside structures."""
    if energy is None:
        return [{"material_id": ident} for ident in ids]
    return [{"material_id": i, "energy_per_atom": e} for i, e in zip(ids, energy.tolist(), strict=True)]


