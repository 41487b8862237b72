"""`omatg-ray ablate`: learned schedules against every hand-made one, tuned on validation crystals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from omatg_ray.commands.ablate_settings import AblationSettings, SetSettings
from omatg_ray.commands.evaluate import NO_POTENTIAL, MeasureOptions, at_work
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
from omatg_ray.run.job_paths import lasting
from omatg_ray.run.location import BUNDLED, Location, is_bundled
from omatg_ray.run.progress import print_line
from omatg_ray.train.job import anchored
from omatg_ray.train.splits import base_run_data


@dataclass(frozen=True)
class AblationResult:
    """What became of an ablation.

    Attributes:
        sets: Results of every set.
        report: The report.
    """

    sets: dict[str, Ablated]
    report: Path


def ablate(settings: AblationSettings, progress: bool = False) -> AblationResult:
    """Tunes, evaluates, compares. What an earlier call has finished in the same folder is not computed again.

    Raises:
        ConfigError: A set names no crystals and its model has none, or a place holds nothing.
        OmatgRayError: As `evaluate`.
    """
    folder, settings = lasting(settings.run), anchored(settings)
    learned = {
        name: [Learned(of, _schedules(f"sets.{name}.learned.{of}", found)) for of, found in one.learned.items()]
        for name, one in settings.sets.items()
    }
    done = {}
    for name, one in settings.sets.items():
        val, test = _crystals(name, one)
        tuned = _tuned(settings, one, val, folder / name / "tuning", f"{name}: tuning", progress)
        done[name] = _compared(settings, one, test, folder / name, tuned, learned[name], progress)
    return AblationResult(done, write_ablation(folder, done, settings.tuning.by))


def _schedules(key: str, folders: Sequence[Location]) -> list[LearnedSchedule]:
    """Learned schedules of a key, whose name errors bear."""
    try:
        return [learned_schedule(folder) for folder in folders]
    except (ConfigError, ModelError) as error:
        raise ConfigError(f"{key}: {error}") from error


def _crystals(name: str, one: SetSettings) -> tuple[Location, Location]:
    """Where the crystals to tune on and to report on are."""
    if one.val is not None and one.test is not None:
        return one.val, one.test
    of_run = base_run_data(one.model) or DataSettings()
    val, test = one.val or of_run.val, one.test or of_run.test
    if val is None or test is None:
        missing = "val" if val is None else "test"
        raise ConfigError(f"sets.{name}.{missing}: {one.model} keeps no splits; name the file of crystals")
    return val, test


@contextmanager
def _work(
    settings: AblationSettings,
    one: SetSettings,
    data: Location,
    progress: bool,
    *,
    limit: int | None,
    samples: int = 1,
    energies: bool = True,
) -> Iterator[tuple[Evaluator, FlowModel]]:
    """What evaluates on these crystals, and the base model."""
    potential = one.potential or (BUNDLED if is_bundled(one.model) else None)
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
    with at_work(options, [one.model], progress) as (evaluator, _, (model,)):
        yield evaluator, model


def _tuned(
    settings: AblationSettings, one: SetSettings, data: Location, folder: Path, title: str, progress: bool
) -> dict[int, dict[str, Tuned]]:
    """The best of every kind at every number of steps."""
    tuning, kinds = settings.tuning, settings.kinds
    if not kinds:
        return {steps: {} for steps in settings.steps}
    found: dict[int, dict[str, Tuned]] = {}
    energies = tuning.by == "relative_energy_mean_capped"
    with _work(settings, one, data, progress, limit=tuning.limit, energies=energies) as (evaluator, model):
        for steps in sorted(steps for steps in settings.steps if steps <= tuning.most_steps):

            def measure(schedules: Sequence[HandMade], steps: int = steps) -> list[float]:
                cases = [Case(model, Sampling(steps, one), "base", brief(one)) for one in schedules]
                values = [one.metrics[tuning.by] for one in evaluate_cases(cases, evaluator, folder)]
                return [math.nan if value is None else value for value in values]

            found[steps] = {kind: tune(kind, tuning, steps, measure, tuning.highest) for kind in kinds}
            if progress:
                best = best_of(found[steps], tuning.highest)[1]
                print_line(f"{title}, {steps} points: best is {brief(best.schedule)}, {tuning.by} {best.value:.4f}")
    most = max(found)
    return {steps: found.get(steps, found[most]) for steps in settings.steps}


def _compared(
    settings: AblationSettings,
    one: SetSettings,
    data: Location,
    folder: Path,
    tuned: dict[int, dict[str, Tuned]],
    learned: Sequence[Learned],
    progress: bool,
) -> Ablated:
    """All schedules on the test crystals."""
    with _work(settings, one, data, progress, limit=settings.limit, samples=settings.samples) as (evaluator, model):
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
