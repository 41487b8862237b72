"""`omatg-ray evaluate`: how good models are on crystals that are known."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omatg_ray.assets import crystals
from omatg_ray.crystal.read import OnError
from omatg_ray.evaluate.cases import Case, CaseFolder, conditions_of, evaluate_cases
from omatg_ray.evaluate.chemistry import PlausibilityCheck, with_plausibility
from omatg_ray.evaluate.comparison import Comparison
from omatg_ray.evaluate.evaluation import Evaluation
from omatg_ray.evaluate.evaluator import Evaluator
from omatg_ray.evaluate.metrics import measured_columns
from omatg_ray.model.checks import warn_generated_species, warn_noiseless, warn_unfamiliar
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.model.schedule import OWN
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.run.atomic import write_json
from omatg_ray.run.location import BUNDLED, Location, absolute_name, is_bundled
from omatg_ray.run.text import aligned
from omatg_ray.train.backend import evaluation_backend
from omatg_ray.train.options import SamplingOptions, WorkOptions
from omatg_ray.train.splits import read

NO_POTENTIAL = "none"


@dataclass(frozen=True, kw_only=True)
class MeasureOptions(WorkOptions):
    """On what to evaluate.

    Without a potential, that which rewarded the model, else for bundled data the bundled one; "none" measures no
    energies.

    Attributes:
        data: File or URL of reference crystals, or bundled: the test split of the bundled ones.
        limit: Use this many references, spread over the file; None uses all.
        on_error: Whether references that cannot be used are refused or skipped.
        samples: Crystals generated for each reference.
        invalid_energy: eV/atom that invalid crystals count in the capped mean.
        plausibility: Measure over chemically plausible crystals too, with SMACT and matminer.
    """

    data: Location
    limit: int | None = None
    on_error: OnError = "refuse"
    samples: int = 1
    invalid_energy: float = 3.0
    plausibility: bool = False


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(MeasureOptions, SamplingOptions):
    """One sampler, and on what to evaluate it."""


@dataclass(frozen=True, kw_only=True)
class CompareOptions(MeasureOptions):
    """Several samplers: every model generates in every way; and on what to evaluate them.

    Attributes:
        models: Model or run folders, or bundled.
        samplings: The ways, after what tables call the annealing of each.
        folder: Where to keep what is done, and the report; what is there already is not computed again.
    """

    models: tuple[Location, ...]
    samplings: tuple[tuple[str, Sampling], ...] = ((OWN, Sampling()),)
    folder: Path | None = None


@dataclass(frozen=True)
class Compared:
    """What became of several samplers.

    Attributes:
        comparison: Of all cases, and of those that the folder holds from other calls under the same conditions.
        resumed: Cases of this call that had been evaluated before.
        others: Cases of other calls.
        report: The report, if there is a folder.
    """

    comparison: Comparison
    resumed: int
    others: int
    report: Path | None


def evaluate(options: EvaluateOptions, progress: bool = False) -> Evaluation:
    """Generates crystals for every reference and compares.

    Crystals of a model that generates species have the numbers of atoms of the references, and are not matched.

    Raises:
        ConfigError: Plausibility is asked for without the packages that it needs.
        ModelError: The model cannot be read.
        DataError: The data cannot be read.
        PotentialError: The potential cannot be loaded or does not know an element of the data.
        ClusterError: There is no Ray cluster, it has no room, or an actor died.
    """
    with at_work(options, [options.model], progress, [options.sampling]) as (evaluator, check, (model,)):
        evaluation = evaluator(model, options.sampling, str(options.model), progress)
        if check is None:
            return evaluation
        return with_plausibility(evaluation, evaluator.references.crystals, check, evaluator.backend.stol)


def compare(options: CompareOptions, progress: bool = False) -> Compared:
    """Evaluates all cases on the same references, from the same x_0 and noise.

    Raises:
        OmatgRayError: As `evaluate`; or the folder cannot be written.
    """
    ways = [sampling for _, sampling in options.samplings]
    with at_work(options, options.models, progress, ways) as (evaluator, check, models):
        names = distinct_names(options.models)
        cases = [
            Case(model, sampling, name, schedule_name)
            for name, model in zip(names, models, strict=True)
            for schedule_name, sampling in options.samplings
        ]
        results = evaluate_cases(cases, evaluator, options.folder, plausibility=check, progress=progress)
        resumed = sum(one.evaluation is None for one in results)
        if options.folder is None:
            return Compared(Comparison.of(results), resumed, 0, None)
        conditions = conditions_of(evaluator, plausible=check is not None)
        # Of a model that is another by now, under the same name, what was measured before would pass for it.
        taken = {(one.name, one.way, one.steps) for one in results}
        kept = CaseFolder(options.folder).others(conditions, [one.key for one in results])
        others = [one for one in kept if (one.name, one.way, one.steps) not in taken]
        comparison, reward = Comparison.of([*results, *others]), evaluator.backend.energy
        about = {
            "data": absolute_name(options.data),
            "seed": options.seed,
            "potential": None if reward is None else reward.potential.name,
        }
        # With what draws, which the others do without.
        from omatg_ray.report.comparison import write_comparison

        report = write_comparison(options.folder, comparison, evaluator.references, about)
        return Compared(comparison, resumed, len(others), report)


@contextmanager
def at_work(
    options: MeasureOptions, places: Sequence[Location], progress: bool, samplings: Sequence[Sampling] = ()
) -> Iterator[tuple[Evaluator, PlausibilityCheck | None, list[FlowModel]]]:
    """What evaluates, and the models at these places, each of which is loaded once.

    Args:
        options: On what, and how.
        places: Models.
        progress: Show progress.
        samplings: How they will generate; warns where that is other than the user may think.
    """
    device = options.prepare()
    plausibility = PlausibilityCheck(options.workers) if options.plausibility else None
    loaded = {place: FlowModel.load(place, device) for place in dict.fromkeys(places)}
    data = crystals("test") if is_bundled(options.data) else options.data
    dataset = read(data, progress, options.on_error)
    for model in loaded.values():
        warn_unfamiliar(model, dataset.elements, dataset.sizes)
        warn_noiseless(model, samplings)
        warn_generated_species(model)
    reward = _reward(options, list(loaded.values()))
    if reward is not None:
        reward.to(device).require_elements(dataset.elements)
    with (
        nullcontext() if plausibility is None else plausibility,
        evaluation_backend(options, loaded[places[0]], reward, progress) as backend,
    ):
        evaluator = Evaluator(
            dataset,
            backend.evaluate,
            options.seed,
            options.limit,
            options.chunk_pairs,
            options.block,
            options.samples,
            options.workers,
            options.timeout,
        )
        yield evaluator, plausibility, [loaded[place] for place in places]


def _reward(options: MeasureOptions, models: Sequence[FlowModel]) -> MatGLEnergy | None:
    """The potential of the energies, if there is any."""
    rewarded = list(dict.fromkeys(model.description.potential for model in models if model.description.potential))
    potential = options.potential or (rewarded[0] if rewarded else None)
    if potential is None and is_bundled(options.data):
        potential = BUNDLED
    if potential is None:
        warnings.warn("no energies: the model names no potential; give one with --potential", stacklevel=2)
    if potential is None or potential == NO_POTENTIAL:
        return None
    if options.potential is None and len(rewarded) > 1:
        warnings.warn(
            f"the models were rewarded by different potentials; all energies are by {potential} (--potential)",
            stacklevel=2,
        )
    return MatGLEnergy(potential, invalid_energy=options.invalid_energy)


def distinct_names(places: Sequence[Location]) -> list[str]:
    """Short names of models: the last part of each place, with as many before it as tell them apart."""
    parts = [str(place).rstrip("/").split("/") for place in places]
    different = len({tuple(one) for one in parts})
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == different:
            return names
    return [str(place) for place in places]


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Metrics at the top level, then what was asked for and the values of every structure."""
    write_json(path, flattened(evaluation.as_dict()))


def flattened(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation as `Evaluation.as_dict` gives it, with its metrics at the top level."""
    return {**evaluation["metrics"], **{key: value for key, value in evaluation.items() if key != "metrics"}}


def table(rows: list[dict[str, Any]]) -> str:
    """Evaluations (as `Evaluation.as_dict` gives them) as a plain-text table, one line each.

    Metrics that no evaluation has are left out.
    """
    columns = measured_columns(row["metrics"] for row in rows)
    lines = [["", *(column.short for column in columns.values())]]
    for row in rows:
        metrics = row["metrics"]
        cells = ["-" if metrics[key] is None else column.form.format(metrics[key]) for key, column in columns.items()]
        lines.append([row["label"], *cells])
    return aligned(lines, left=[0])
