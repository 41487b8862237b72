"""`omatg-ray ablate`: learned schedules against every hand-made one, tuned on validation crystals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from omatg_ray.bundle import BUNDLED, is_bundled
from omatg_ray.commands.evaluate import NO_POTENTIAL, MeasureOptions, at_work
from omatg_ray.commands.places import found_or_bundled, found_or_named, lasting
from omatg_ray.commands.setup import base_run_data
from omatg_ray.config import DataSettings, LocalFolder, ModelPlace, Place, explain_errors
from omatg_ray.distributed.settings import RaySettings
from omatg_ray.errors import ConfigError, ModelError
from omatg_ray.evaluate.ablation import BEST, Ablated, Learned, best_of, ways_of, write_ablation
from omatg_ray.evaluate.cases import Case, CaseResult, evaluate_cases
from omatg_ray.evaluate.comparison import Comparison, write_comparison
from omatg_ray.evaluate.evaluation import Evaluator
from omatg_ray.evaluate.tuning import HandMade, TriedSettings, Tuned, tune
from omatg_ray.model import FlowModel
from omatg_ray.policy.annealing import LearnedAnnealing, LinearAnnealing
from omatg_ray.reward.settings import PotentialName
from omatg_ray.run.progress import print_line
from omatg_ray.schedule import NONE, brief, learned_schedule
from omatg_ray.settings import Settings
from omatg_ray.tree import read_tree

Kind = Literal["linear", "quadratic", "cosine", "constant", "steps"]
Metric = Literal["crmse", "match_rate", "relative_energy_mean_capped"]
KINDS: list[Kind] = list(get_args(Kind))


class SetSettings(Settings):
    """A base model with its crystals, and the schedules that were learned for it."""

    model: ModelPlace = Field(description="base model: model or run folder, its URL, or bundled")
    val: Place | None = Field(None, description="crystals to tune on; null: the validation split of the model's run")
    test: Place | None = Field(None, description="crystals to report on; null: the test split of the model's run")
    potential: PotentialName | None = Field(
        None, description="potential of the energies; null: that of the model, if it has one; none: no energies"
    )
    learned: dict[str, Annotated[list[ModelPlace], Field(min_length=1)]] = Field(
        {},
        description="learned schedules by name, one for each seed: their folders, the runs that learned, or bundled",
    )


class TuningSettings(TriedSettings):
    """How hand-made schedules are tuned."""

    by: Metric = Field("crmse", description="metric that decides")
    limit: int | None = Field(128, ge=1, description="validation crystals, spread over the file; null: all")
    most_steps: int = Field(100, ge=2, description="for more grid points than this, what is best for the most tuned")

    @property
    def highest(self) -> bool:
        """Whether high values of the metric are good."""
        return self.by == "match_rate"


class AblationSettings(Settings):
    """What `omatg-ray ablate` compares."""

    run: LocalFolder = Field(
        Path("runs/ablation"), description="folder of the results; what is there is not computed again"
    )
    sets: dict[str, SetSettings] = Field(min_length=1, description="base models with their crystals, by name")
    steps: list[int] = Field([5, 10, 20, 50, 100, 500], min_length=1, description="grid points")
    kinds: list[Kind] = Field(KINDS, description="hand-made schedules; steps: unequal steps in place of a scale")
    tuning: TuningSettings = Field(TuningSettings(), description="tuning of hand-made schedules")
    samples: int = Field(1, ge=1, description="crystals generated for each reference")
    limit: int | None = Field(None, ge=1, description="test crystals, spread over the file; null: all")
    seed: int = Field(0, ge=0, description="seed of x_0")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N; actors have ray.*.gpus instead")
    threads: int | None = Field(None, ge=1, description="PyTorch's CPU threads; null: PyTorch's choice")
    workers: int = Field(2, ge=0, description="processes that match structures; 0: in this process")
    ray: RaySettings = Field(RaySettings(), description="actors that generate and measure; without workers: none")

    @model_validator(mode="after")
    def _names(self) -> AblationSettings:
        for name, one in self.sets.items():
            ways = [NONE, BEST, *KINDS]
            for learned, places in one.learned.items():
                new = ways_of(learned, len(places))
                if set(new) & set(ways):
                    raise ValueError(f"sets.{name}.learned.{learned}: that name is taken; choose another one")
                ways += new
        return self

    @model_validator(mode="after")
    def _sensible(self) -> AblationSettings:
        if min(self.steps) < 2 or len(set(self.steps)) != len(self.steps):
            raise ValueError("`steps` are different numbers of at least 2 grid points")
        if not any(steps <= self.tuning.most_steps for steps in self.steps) and self.kinds:
            raise ValueError("`tuning.most_steps` is below all `steps`, so that nothing could be tuned")
        return self

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> AblationSettings:
        """Reads a YAML file and applies `key=value` overrides.

        Raises:
            ConfigError: The file cannot be read, or a key is unknown, mistyped or out of range; names the key.
        """
        tree, source = read_tree(path, overrides)
        with explain_errors(source, cls):
            return cls.model_validate(tree)


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
    folder = lasting(settings.run)
    sets = {name: _located(name, one) for name, one in settings.sets.items()}
    learned = {
        name: [Learned(of, _schedules(f"sets.{name}.learned.{of}", found)) for of, found in one.learned.items()]
        for name, one in sets.items()
    }
    done = {}
    for name, one in sets.items():
        val, test = _crystals(name, one)
        tuned = _tuned(settings, one, val, folder / name / "tuning", f"{name}: tuning", progress)
        done[name] = _compared(settings, one, test, folder / name, tuned, learned[name], progress)
    return AblationResult(done, write_ablation(folder, done, settings.tuning.by))


def _schedules(key: str, places: Sequence[Place]) -> list[LearnedAnnealing]:
    """Learned schedules of a key, whose name errors bear."""
    try:
        return [learned_schedule(place) for place in places]
    except (ConfigError, ModelError) as error:
        raise ConfigError(f"{key}: {error}") from error


def _located(name: str, one: SetSettings) -> SetSettings:
    """With all files where a job finds them."""
    key = f"sets.{name}"
    return one.model_copy(
        update={
            "model": found_or_bundled(one.model, f"{key}.model"),
            "val": None if one.val is None else found_or_bundled(one.val, f"{key}.val"),
            "test": None if one.test is None else found_or_bundled(one.test, f"{key}.test"),
            "potential": found_or_named(one.potential),
            "learned": {
                of: [found_or_bundled(place, f"{key}.learned.{of}") for place in places]
                for of, places in one.learned.items()
            },
        }
    )


def _crystals(name: str, one: SetSettings) -> tuple[Place, Place]:
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
    data: Place,
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
    settings: AblationSettings, one: SetSettings, data: Place, folder: Path, title: str, progress: bool
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
                cases = [Case(model, steps, "base", one, brief(one)) for one in schedules]
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
    data: Place,
    folder: Path,
    tuned: dict[int, dict[str, Tuned]],
    learned: Sequence[Learned],
    progress: bool,
) -> Ablated:
    """All schedules on the test crystals."""
    with _work(settings, one, data, progress, limit=settings.limit, samples=settings.samples) as (evaluator, model):
        cases: list[Case] = []
        for steps in sorted(settings.steps):
            cases.append(Case(model, steps, "base", LinearAnnealing(), NONE))
            cases += [Case(model, steps, "base", best.schedule, kind) for kind, best in tuned[steps].items()]
            cases += [
                Case(model, steps, "base", schedule, name)
                for of in learned
                for name, schedule in zip(of.ways, of.schedules, strict=True)
            ]
        results: list[CaseResult] = evaluate_cases(cases, evaluator, folder, progress=progress)
        report = write_comparison(folder, Comparison.of(results), evaluator.references, {"data": str(data)})
    return Ablated(results, tuned, settings.tuning.highest, list(learned), report)
