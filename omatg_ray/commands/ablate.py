"""`omatg-ray ablate`: learned schedules against all hand-made ones, which are tuned on validation crystals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from omatg_ray.assets import set_with
from omatg_ray.commands.ablate_settings import AblationSettings, SetSettings
from omatg_ray.commands.evaluate import MeasureOptions, evaluation_session
from omatg_ray.crystal.settings import DataSettings
from omatg_ray.errors import ConfigError, ModelError
from omatg_ray.evaluate.ablation import HandMade, Tuned, best_kind, summarize, tune
from omatg_ray.evaluate.cases import Case, evaluate_cases
from omatg_ray.evaluate.chemistry import PlausibilityCheck
from omatg_ray.evaluate.comparison import Comparison
from omatg_ray.evaluate.evaluator import Evaluator
from omatg_ray.evaluate.settings import ways_of
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.model.schedule import NONE, brief, learned_schedule
from omatg_ray.policy.hand_made import LinearSchedule
from omatg_ray.policy.schedule import LearnedSchedule, Schedule
from omatg_ray.report.ablation import write_ablation
from omatg_ray.report.comparison import write_comparison
from omatg_ray.run.job_paths import path_to_keep
from omatg_ray.run.location import NO_POTENTIAL, Location, as_base
from omatg_ray.run.progress import print_line
from omatg_ray.train.job import with_job_paths
from omatg_ray.train.splits import base_run_data


def ablate(settings: AblationSettings, progress: bool = False) -> tuple[dict[str, dict[str, Any]], Path]:
    """Tune, evaluate and compare. Results of an earlier call in the same folder are not computed again.

    Returns:
        Results of every set, as from `summarize`, and the path of the report.

    Raises:
        ConfigError: A set names no crystals and its model has none, or nothing exists at a location.
        OmatgRayError: As `evaluate`.
    """
    folder, settings = path_to_keep(settings.run), with_job_paths(settings)
    learned = {
        name: {of: _load_schedules(f"sets.{name}.learned.{of}", of, paths) for of, paths in entry.learned.items()}
        for name, entry in settings.sets.items()
    }
    sets = {}
    for name, entry in settings.sets.items():
        val, test = _locate_crystals(name, entry)
        tuned = _tune(settings, entry, val, folder / name / "tuning", f"{name}: tuning", progress)
        cases: list[Case] = []
        measured = {"limit": settings.limit, "samples": settings.samples}
        with _session(settings, entry, test, progress, **measured) as (evaluator, _, (model,)):
            for steps in sorted(settings.steps):
                schedules: dict[str, Schedule] = {NONE: LinearSchedule()}
                schedules |= {kind: best.schedule for kind, best in tuned[steps].items()}
                for versions in learned[name].values():
                    schedules |= versions
                cases += [Case(model, Sampling(steps, schedule), "base", way) for way, schedule in schedules.items()]
            results = evaluate_cases(cases, evaluator, folder / name, progress=progress)
            write_comparison(folder / name, Comparison.of(results), evaluator.references, {"data": str(test)})
        sets[name] = summarize(results, tuned, learned[name], settings.tuning)
    return sets, write_ablation(folder, sets, learned, settings.tuning.by)


def _load_schedules(key: str, name: str, folders: Sequence[Location]) -> dict[str, LearnedSchedule]:
    """Load the versions of a learned schedule, by name; errors name the key."""
    try:
        return dict(zip(ways_of(name, len(folders)), map(learned_schedule, folders), strict=True))
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


def _session(
    settings: AblationSettings, entry: SetSettings, data: Location, progress: bool, **measured: Any
) -> AbstractContextManager[tuple[Evaluator, PlausibilityCheck | None, list[FlowModel]]]:
    """Open an evaluator on these crystals, together with the base model; `measured` goes to `MeasureOptions`."""
    potential = entry.potential or set_with("potential", entry.model)
    shared = {name: getattr(settings, name) for name in ("seed", "workers", "device", "threads", "ray")}
    options = MeasureOptions(**{"data": data, "potential": potential, **shared, **measured})
    return evaluation_session(options, [as_base(entry.model)], progress)


def _tune(
    settings: AblationSettings, entry: SetSettings, data: Location, folder: Path, title: str, progress: bool
) -> dict[int, dict[str, Tuned]]:
    """Find the best schedule of every kind at every number of steps."""
    tuning, kinds = settings.tuning, settings.kinds
    if not kinds:
        return {steps: {} for steps in settings.steps}
    tuned: dict[int, dict[str, Tuned]] = {}
    potential = {} if tuning.by == "relative_energy_mean_capped" else {"potential": NO_POTENTIAL}
    with _session(settings, entry, data, progress, limit=tuning.limit, **potential) as (evaluator, _, (model,)):
        for steps in sorted(steps for steps in settings.steps if steps <= tuning.most_steps):

            def measure(schedules: Sequence[HandMade], steps: int = steps) -> list[float]:
                cases = [Case(model, Sampling(steps, schedule), "base", brief(schedule)) for schedule in schedules]
                values = [result.metrics[tuning.by] for result in evaluate_cases(cases, evaluator, folder)]
                return [math.nan if value is None else value for value in values]

            tuned[steps] = {kind: tune(kind, tuning, steps, measure) for kind in kinds}
            if progress:
                best = tuned[steps][best_kind(tuned[steps], tuning)]
                print_line(f"{title}, {steps} points: best is {brief(best.schedule)}, {tuning.by} {best.value:.4f}")
    return {steps: tuned.get(steps, tuned[max(tuned)]) for steps in settings.steps}
