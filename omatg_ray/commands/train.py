"""`omatg-ray train`: reinforcement of a model by policy gradients on its velocity field."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from omatg_ray.config import Config
from omatg_ray.crystal.domain import INSIDE, UNKNOWN, judge
from omatg_ray.crystal.write import write_structures
from omatg_ray.errors import ClusterError, ConfigError, OmatgRayError, RewardError, TrainingError
from omatg_ray.evaluate.backend import EvaluationBackend
from omatg_ray.evaluate.cases import CASES, Case, crystals_of_case, evaluate_cases
from omatg_ray.evaluate.domain import trained_on
from omatg_ray.evaluate.evaluator import Evaluator
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.policy.settings import NoiseMode
from omatg_ray.run.advice import command
from omatg_ray.run.atomic import remove_folder, write_json, write_text
from omatg_ray.run.folder import RunFolder
from omatg_ray.run.interrupt import Interrupted, StopRequest
from omatg_ray.run.location import Location
from omatg_ray.run.state import describe_kept
from omatg_ray.run.text import counted
from omatg_ray.train.backend import run_backend
from omatg_ray.train.build import build_run
from omatg_ray.train.callback import Callback
from omatg_ray.train.checkpoint import iteration_of, restore
from omatg_ray.train.components import RunComponents
from omatg_ray.train.loop import TrainLoop, best_iteration
from omatg_ray.train.precision import resolve_precision
from omatg_ray.train.record import describe_run, refuse_changes
from omatg_ray.train.splits import refuse_other_crystals


@dataclass(frozen=True)
class TrainResult:
    """Result of a run.

    Attributes:
        model: Folder of the best checkpoint, or its URL.
        iteration: Number of iterations before the best checkpoint; 0 if no validation improved on the one before
            training.
        rows: Evaluations on the test split, as from `Evaluation.as_dict`: the base, then the best checkpoint without
            noise and with that of the policy, then, if the best is the base, the last one; none without a test
            (`test.limit: 0`).
        report: The report.
        example: Formula of a cell of the run's own crystals that the model knows.
        generates_species: Whether the model takes numbers of atoms instead of formulas.
    """

    model: Location
    iteration: int
    rows: list[dict[str, Any]] = field(repr=False)
    report: Location
    example: str
    generates_species: bool


def train(
    config: Config, resume: bool | Path = False, progress: bool = True, callback: Callback | None = None
) -> TrainResult:
    """Reinforce a model.

    `best` is the checkpoint with the lowest mean relative energy on the validation split. If anything besides the
    energy is rewarded, or species are generated, it is the one with the highest mean reward of the crystals generated
    for it. `validation.best` may name another measure.

    Args:
        config: The run.
        resume: Resume the run in `config.run` from its last checkpoint, exactly. If that is a URL, this may be the
            scratch folder of an earlier process that could not store it there.
        progress: Show progress.
        callback: Called after every iteration and validation; may stop the run (`StopRun`).

    Raises:
        ConfigError: As `build_run`; or the run folder holds a run already, or no run to resume, or one with other
            settings, crystals or potential.
        ModelError: As `build_run`; or the run to resume has another network.
        ClusterError: There is no Ray cluster, it has no room for the run, or an actor died; the last checkpoint stays.
        TrainingError: The loss is not finite or too many rewards failed; the last checkpoint stays.
        RewardError: As `build_run`; or a reward breaks its contract; the last checkpoint stays.
        StorageError: The URL of the run cannot be reached, or the end of the run cannot be stored; names the folder
            that holds it.
        Interrupted: Stopped by the user at an iteration boundary, with a checkpoint.
    """
    parts = build_run(config, progress)
    with RunFolder.create(config.run, resume) as folder, StopRequest("this iteration") as stop:
        checkpoint = folder.latest_checkpoint() if resume else None
        done = None if checkpoint is None else restore(folder, checkpoint, parts.model)
        config = resolve_precision(config, parts, folder, progress)
        refuse_changes(folder, config)
        refuse_other_crystals(folder, parts.split)
        if done is not None and done.iteration > config.iterations:
            raise ConfigError(f"iterations: the run has done {done.iteration} already, more than {config.iterations}")
        with run_backend(config, parts, progress) as backend:
            if stop.requested:
                raise Interrupted("stopped before the first iteration; nothing was done")
            if done is not None:
                backend.train.load_state_dict(done.learner, done.iteration)
            describe_run(folder, config, parts.split)
            try:
                with TrainLoop(config, parts, backend, folder, done, progress, callback) as work:
                    while not work.done and not stop.requested:
                        work.iterate()
                    iteration = work.finish()
                if not stop.requested:
                    rows = _test(config, parts, backend.evaluate, folder, stop, progress)
            except (TrainingError, ClusterError, RewardError) as error:
                raise type(error)(
                    f"{str(error).rstrip('.')}. {describe_kept(folder)}{_again(folder, error)}"
                ) from error
        if stop.requested:
            where = f"after iteration {iteration} of {config.iterations}"
            if iteration == config.iterations:
                where = "before the test was finished (what is done of it stays)"
            raise Interrupted(f"stopped {where}; resume with: {command('train', '--resume', config.run)}")
        from omatg_ray.report.run import write_report  # not before: matplotlib takes half a second

        report = write_report(folder.path)
        best, species = folder.named(folder.checkpoints / "best"), parts.model.generates_species
        return TrainResult(best, best_iteration(folder), rows, folder.named(report), example_cell(parts), species)


def _again(folder: RunFolder, error: OmatgRayError) -> str:
    """Return how to resume after a failure that the run itself did not cause."""
    resume = f"; resume with: {command('train', '--resume', folder.named(folder.path))}"
    if isinstance(error, RewardError) and folder.pointed_at("last"):
        # The same code would fail again, and changed code needs a new run.
        return f"{resume}; or, if the code of a reward has to change, start a new run with base=this checkpoint"
    return resume if isinstance(error, ClusterError) else ""


def _test(
    config: Config,
    parts: RunComponents,
    backend: EvaluationBackend,
    folder: RunFolder,
    stop: StopRequest,
    progress: bool,
) -> list[dict[str, Any]]:
    """Compare before and after on the test split, without noise and, if it learned with noise, with that of the policy.

    If the best checkpoint is the base, the last one is compared too: before and after are the same.

    What is evaluated stays in `evaluation/cases` until all is, so that a resumed run does not begin anew. Returns
    early, with nothing, if a stop is requested; also if there is to be no test.
    """
    limit = config.test.limit
    if limit == 0:
        return []
    evaluate = Evaluator(
        parts.split.test,
        backend,
        config.seed,
        limit,
        chunk_pairs=config.validation.chunk_pairs,
        block=config.validation.block,
    )
    best = FlowModel.load(folder.checkpoints / "best", parts.model.device)
    iteration = best_iteration(folder)
    label = described_best(iteration)
    start = best.variant.start(parts.start, best)
    runs: list[tuple[str, str, FlowModel, NoiseMode]] = [
        ("before", "base", start, "none"),
        ("after", label, best, "none"),
    ]
    if config.by_policy:  # otherwise no noise was trained with
        runs.append(("after_noise", f"{label}, policy noise", best, "policy"))
    last = folder.pointed_at("last")
    if not iteration and last is not None and iteration_of(last):
        model = FlowModel.load(folder.checkpoints / "last", parts.model.device)
        runs.append(("last", described_last(iteration_of(last)), model, "none"))
    rows: list[dict[str, Any]] = []
    for name, row_label, model, noise in runs:
        case = Case(model, Sampling(config.validated_steps, noise=noise), row_label)
        (result,) = evaluate_cases([case], evaluate, folder.evaluation, columns=("energy_per_atom",), progress=progress)
        rows.append(result.values | {"label": row_label})
        write_json(folder.evaluation / f"{name}.json", rows[-1])
        if noise == "none":
            crystals = crystals_of_case(folder.evaluation, result.key).read_text(encoding="utf-8")
            write_text(folder.structures / f"{name}.extxyz", crystals)
        folder.store()
        if stop.requested:
            return []
    if not best.generates_species:  # With generated species, rows and references differ in their atoms.
        references, energy = evaluate.references, evaluate.reference_energy
        path = folder.structures / "reference.extxyz"
        write_structures(path, references.crystals.to_structures(), properties(references.ids, energy))
    remove_folder(folder.evaluation / CASES)
    return rows


def example_cell(parts: RunComponents) -> str:
    """Return the formula of a cell of the run's own crystals that model and potential know, to generate more of it.

    The one with the most polymorphs in the test split; if all there are outside of what was trained on, in the training
    split.
    """
    trained = trained_on({"": parts.model}, [parts.scorers.energy])
    splits = [split.crystals for split in (parts.split.test, parts.split.train)]
    for crystals in splits:
        formulas = crystals.formulas()
        species = dict(zip(formulas, crystals.atomic_numbers, strict=True))
        for formula, _ in Counter(formulas).most_common():
            cell = species[formula]
            if judge(trained, cell) in (INSIDE, UNKNOWN):
                return formula
    return Counter(splits[0].formulas()).most_common(1)[0][0]


def described_best(iteration: int) -> str:
    """Return the name of the best checkpoint in tables."""
    if not iteration:
        return "best is the base (iteration 0)"
    return f"reinforced, {counted(iteration, 'iteration')}"


def described_last(iteration: int) -> str:
    """Return the name in tables of the last checkpoint, where the best one is the base."""
    return f"last, {counted(iteration, 'iteration')}; not better in validation"


def properties(ids: Sequence[str], energy: Tensor | None) -> list[dict[str, Any]]:
    """Return the columns to write beside structures."""
    if energy is None:
        return [{"material_id": ident} for ident in ids]
    return [{"material_id": i, "energy_per_atom": e} for i, e in zip(ids, energy.tolist(), strict=True)]
