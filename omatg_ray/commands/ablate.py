"""`omatg-ray ablate`: learned schedules against all hand-made ones, which are tuned on validation crystals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from omatg_ray.commands.ablate_settings import AblationSettings, SetSettings
from omatg_ray.commands.evaluate import NO_POTENTIAL, MeasureOptions, evaluation_session
from omatg_ray.config import DataSettings
from omatg_ray.errors import ConfigError, ModelError
from omatg_ray.evaluate.ablation import Ablated, Learned, best_of
from omatg_ray.evaluate.cases import Case, CaseResult, evaluate_cases
from omatg_ray.evaluate.comparison import Comparison
from omatg_ray.evaluate.evaluator import Evaluator
from omatg_ray.evaluate.tuning import HandMade, Tuned, tune
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.model.schedule import NONE, brief, learned_schedule
from omatg_ray.policy.hand_made import LinearSchedule
from omatg_ray.policy.schedule import LearnedSchedule
from omatg_ray.report.ablation import write_ablation
from omatg_ray.report.comparison import write_comparison
from omatg_ray.run.job_paths import path_to_keep
from omatg_ray.run.location import BUNDLED, Location, is_bundled
from omatg_ray.run.progress import print_line
from omatg_ray.train.job import with_job_paths
from omatg_ray.train.splits import base_run_data


@dataclass(frozen=True)
class AblationResult:
    """Result of an ablation.

    Attributes:
        sets: Results of every set.
        report: The report.
    """

    sets: dict[str, Ablated]
    report: Path


def ablate(settings: AblationSettings, progress: bool = False) -> AblationResult:
    """Tune, evaluate and compare. Results of an earlier call in the same folder are not computed again.

    Raises:
        ConfigError: A set names no crystals and its model has none, or nothing exists at a location.
        OmatgRayError: As `evaluate`.
    """
    folder, settings = path_to_keep(settings.run), with_job_paths(settings)
    learned = {
        name: [Learned(of, _load_schedules(f"sets.{name}.learned.{of}", paths)) for of, paths in entry.learned.items()]
        for name, entry in settings.sets.items()
    }
    done = {}
    for name, entry in settings.sets.items():
        val, test = _locate_crystals(name, entry)
        tuned = _tune(settings, entry, val, folder / name / "tuning", f"{name}: tuning", progress)
        done[name] = _compare(settings, entry, test, folder / name, tuned, learned[name], progress)
    return AblationResult(done, write_ablation(folder, done, settings.tuning.by))


def _load_schedules(key: str, folders: Sequence[Location]) -> list[LearnedSchedule]:
    """Load the learned schedules of a key; errors name the key."""
    try:
        return [learned_schedule(folder) for folder in folders]
    except (ConfigError, ModelError) as error:
        raise ConfigError(f"{key}: {error}") from error


def _locate_crystals(name: str, entry: SetSettings) -> tuple[Location, Location]:
    """Return the locations of the crystals to tune on and to report on."""
    if entry.val is not None and entry.test is not None:
        return entry.val, entry.test
    of_run = base_run_data(entry.model) or DataSettings()
    val, test = entry.val or of_run.val, entry.test or of_run.test
    if val is None or test is None:
        missing = "val" if val is None else "test"
        raise ConfigError(f"sets.{name}.{missing}: {entry.model} keeps no splits; name the file of crystals")
    return val, test


@contextmanager
def _work(
    settings: AblationSettings,
    entry: SetSettings,
    data: Location,
    progress: bool,
    *,
    limit: int | None,
    samples: int = 1,
    energies: bool = True,
) -> Iterator[tuple[Evaluator, FlowModel]]:
    """Open an evaluator on these crystals, together with the base model."""
    potential = entry.potential or (BUNDLED if is_bundled(entry.model) else None)
    options = MeasureOptions(
        data=data,
        limit=limit,
        samples=samples,
        seed=settings.seed,
        potential=potential if energies else NO_POTENTIAL,
        workers=settings.workers,
        device=settings.device,
        threads=settings.threads,
        ray=settings.ray,
    )
    with evaluation_session(options, [entry.model], progress) as (evaluator, _, (model,)):
        yield evaluator, model


def _tune(
    settings: AblationSettings, entry: SetSettings, data: Location, folder: Path, title: str, progress: bool
) -> dict[int, dict[str, Tuned]]:
    """Find the best schedule of every kind at every number of steps."""
    tuning, kinds = settings.tuning, settings.kinds
    if not kinds:
        return {steps: {} for steps in settings.steps}
    best_schedules: dict[int, dict[str, Tuned]] = {}
    energies = tuning.by == "relative_energy_mean_capped"
    with _work(settings, entry, data, progress, limit=tuning.limit, energies=energies) as (evaluator, model):
        for steps in sorted(steps for steps in settings.steps if steps <= tuning.most_steps):

            def measure(schedules: Sequence[HandMade], steps: int = steps) -> list[float]:
                cases = [Case(model, Sampling(steps, schedule), "base", brief(schedule)) for schedule in schedules]
                values = [result.metrics[tuning.by] for result in evaluate_cases(cases, evaluator, folder)]
                return [math.nan if value is None else value for value in values]

            best_schedules[steps] = {kind: tune(kind, tuning, steps, measure, tuning.highest) for kind in kinds}
            if progress:
                best = best_of(best_schedules[steps], tuning.highest)[1]
                print_line(f"{title}, {steps} points: best is {brief(best.schedule)}, {tuning.by} {best.value:.4f}")
    most = max(best_schedules)
    return {steps: best_schedules.get(steps, best_schedules[most]) for steps in settings.steps}


def _compare(
    settings: AblationSettings,
    entry: SetSettings,
    data: Location,
    folder: Path,
    tuned: dict[int, dict[str, Tuned]],
    learned: Sequence[Learned],
    progress: bool,
) -> Ablated:
    """Evaluate all schedules on the test crystals."""
    with _work(settings, entry, data, progress, limit=settings.limit, samples=settings.samples) as (evaluator, model):
        cases: list[Case] = []
        for steps in sorted(settings.steps):
            cases.append(Case(model, Sampling(steps, LinearSchedule()), "base", NONE))
            cases += [Case(model, Sampling(steps, best.schedule), "base", kind) for kind, best in tuned[steps].items()]
            cases += [
                Case(model, Sampling(steps, schedule), "base", name)
                for of in learned
                for name, schedule in zip(of.ways, of.schedules, strict=True)
            ]
        results: list[CaseResult] = evaluate_cases(cases, evaluator, folder, progress=progress)
        report = write_comparison(folder, Comparison.of(results), evaluator.references, {"data": str(data)})
    return Ablated(results, tuned, settings.tuning.highest, list(learned), report)
