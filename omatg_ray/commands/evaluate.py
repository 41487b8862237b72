"""`omatg-ray evaluate`: quality of models, measured on known crystals."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

from omatg_ray.assets import crystals, set_with
from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.crystal.read import OnError
from omatg_ray.evaluate.cases import Case, conditions_of, evaluate_cases, other_cases
from omatg_ray.evaluate.chemistry import PlausibilityCheck, with_plausibility
from omatg_ray.evaluate.comparison import Comparison
from omatg_ray.evaluate.domain import trained_on, warn_outside
from omatg_ray.evaluate.evaluation import Evaluation, spread_rows
from omatg_ray.evaluate.evaluator import Evaluator
from omatg_ray.evaluate.metrics import CAPPED, RELAXED, is_relaxed, measured_columns, relaxed_label, was_relaxed
from omatg_ray.evaluate.relaxation import require_relaxable
from omatg_ray.model.checks import warn_generated_species, warn_ineffective
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import DEFAULT, Sampling
from omatg_ray.model.schedule import OWN
from omatg_ray.policy.schedule import describe
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.run.location import BUNDLED, NO_POTENTIAL, Location, absolute_name, is_bundled
from omatg_ray.run.text import LINE, aligned
from omatg_ray.train.backend import evaluation_backend
from omatg_ray.train.early import reward_config
from omatg_ray.train.measured_reward import measured_reward
from omatg_ray.train.options import WorkOptions
from omatg_ray.train.splits import read
from omatg_ray.train.unknown import drop_unknown, known_to, refuse_unmatchable, require_known

WAS_BUNDLED = ". What version 0.1 called `bundled` is bundled-prototypes"


@dataclass(frozen=True, kw_only=True)
class MeasureOptions(WorkOptions):
    """The reference crystals of an evaluation, and how to measure.

    Without `potential`, energies are by the potential that rewarded the model, else by the bundled one for bundled
    data. "none" measures no energies.

    Attributes:
        data: File or URL of reference crystals, or bundled: the test split of the bundled ones; or the crystals.
        limit: Use this many references, spread over the file; None uses all.
        on_error: Whether unusable references are refused or skipped.
        drop_unknown: Whether references with elements that a model or the potential does not know are left out.
        samples: Crystals generated for each reference.
        invalid_energy: Energy in eV/atom that invalid crystals count as in the capped mean.
        plausibility: Also measure over chemically plausible crystals, with SMACT and matminer.
        reward: YAML file with a section `reward`, or folder of a run: also measure this reward, its parts and values.
        relax: Also relax every crystal in at most this many steps, and measure once more; 0 does not.
    """

    data: Location | CrystalDataset
    limit: int | None = None
    on_error: OnError = "refuse"
    drop_unknown: bool = False
    samples: int = 1
    invalid_energy: float = 3.0
    plausibility: bool = False
    reward: Path | None = None
    relax: int = 0


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(MeasureOptions):
    """One sampler, and its evaluation.

    Attributes:
        model: Model or run folder, bundled, or a model.
        sampling: How it generates.
    """

    model: Location | FlowModel
    sampling: Sampling = DEFAULT


@dataclass(frozen=True, kw_only=True)
class CompareOptions(MeasureOptions):
    """Several samplers, and their evaluation. Every model is combined with every sampling.

    Attributes:
        models: Model or run folders, or bundled.
        samplings: Pairs of the schedule's name in tables, and the sampling.
        folder: Where to keep finished cases and the report; cases already there are not computed again.
    """

    models: tuple[Location, ...]
    samplings: tuple[tuple[str, Sampling], ...] = ((OWN, Sampling()),)
    folder: Path | None = None


@dataclass(frozen=True)
class Compared:
    """Results of several samplers.

    Attributes:
        comparison: Comparison of all cases, and of those that the folder holds from other calls under the same
            conditions.
        resumed: Number of cases of this call that had been evaluated before.
        others: Number of cases of other calls.
        report: The report, if there is a folder.
    """

    comparison: Comparison
    resumed: int
    others: int
    report: Path | None


def evaluate(options: EvaluateOptions, progress: bool = False) -> Evaluation:
    """Generate crystals for every reference and compare.

    Crystals of a model that generates species have the numbers of atoms of the references, and are not matched.

    Raises:
        ConfigError: Plausibility is asked for without the packages that it needs, or a relaxation without a potential.
        ModelError: The model cannot be read.
        DataError: The data cannot be read.
        PotentialError: The potential cannot be loaded or does not know an element of the data.
        RewardError: The reward cannot be built, or breaks its contract.
        ClusterError: There is no Ray cluster, it has no room, or an actor died.
    """
    with evaluation_session(options, [options.model], progress, [options.sampling]) as (evaluator, check, (model,)):
        evaluation = evaluator(model, options.sampling, _name(options.model), progress)
        if check is None:
            return evaluation
        return with_plausibility(evaluation, evaluator.references.crystals, check, evaluator.backend.stol)


def compare(options: CompareOptions, progress: bool = False) -> Compared:
    """Evaluate all cases on the same references, from the same x_0 and noise.

    Raises:
        OmatgRayError: As `evaluate`; or the folder cannot be written.
    """
    ways = [sampling for _, sampling in options.samplings]
    with evaluation_session(options, options.models, progress, ways) as (evaluator, check, models):
        _warn_of_schedules(options, models)
        names = distinct_names(options.models)
        cases = [
            Case(model, sampling, name, schedule_name)
            for name, model in zip(names, models, strict=True)
            for schedule_name, sampling in options.samplings
        ]
        results = evaluate_cases(cases, evaluator, options.folder, plausibility=check, progress=progress)
        resumed = sum(result.evaluation is None for result in results)
        if options.folder is None:
            return Compared(Comparison.of(results), resumed, 0, None)
        conditions = conditions_of(evaluator, plausible=check is not None)
        # Drop results of a model that has changed since under the same name; they would look like the new one's.
        measured = {(case.name, case.way, case.steps) for case in results}
        kept = other_cases(options.folder, conditions, [case.key for case in results])
        others = [case for case in kept if (case.name, case.way, case.steps) not in measured]
        comparison, reward = Comparison.of([*results, *others]), evaluator.backend.energy
        about = {
            "data": None if isinstance(options.data, CrystalDataset) else absolute_name(options.data),
            "seed": options.seed,
            "potential": None if reward is None else reward.potential.name,
        }
        # Imported here because it loads the plotting code, which only this branch needs.
        from omatg_ray.report.comparison import write_comparison

        report = write_comparison(options.folder, comparison, evaluator.references, about)
        return Compared(comparison, resumed, len(others), report)


@contextmanager
def evaluation_session(
    options: MeasureOptions,
    places: Sequence[Location | FlowModel],
    progress: bool,
    samplings: Sequence[Sampling] = (),
) -> Iterator[tuple[Evaluator, PlausibilityCheck | None, list[FlowModel]]]:
    """Open an evaluator and the plausibility check, and load the models, each location only once.

    Args:
        options: The references, and how to measure.
        places: The models, or their locations.
        progress: Show progress.
        samplings: How the models will generate; warns if the policy's noise is asked for but cannot be used.

    Raises:
        ModelError: A model cannot generate so.
    """
    device = options.prepare()
    plausibility = PlausibilityCheck(options.workers) if options.plausibility else None
    loaded = {
        place: place.to(device) if isinstance(place, FlowModel) else FlowModel.load(place, device)
        for place in dict.fromkeys(places)
    }
    data = options.data
    if isinstance(data, CrystalDataset):
        called: Location = "the references"
        dataset = data
    else:
        called = crystals("test", data) if is_bundled(data) else data
        dataset = read(called, progress, options.on_error)
    config = None if options.reward is None else reward_config(options.reward)
    reward = _reward(options, list(loaded.values()), None if config is None else config.reward.potential)
    require_relaxable(options.relax, reward)
    if options.drop_unknown:
        known = {} if reward is None else known_to(reward.potential)
        for place, model in loaded.items():
            known |= known_to(None, model, _name(place))
        dataset = drop_unknown(dataset, known, called)
    for model in loaded.values():
        for sampling in samplings:
            sampling.check(model)
        warn_ineffective(model, samplings)
        warn_generated_species(model)
    models = {_name(place): model for place, model in loaded.items()}
    asked = dataset.crystals.select(spread_rows(len(dataset), options.limit)).atomic_numbers
    warn_outside(models, trained_on(models, [reward]), asked, "references")
    if reward is not None:
        require_known(reward.to(device).potential, {z for cell in asked for z in cell})
    own = None
    if config is not None and options.reward is not None:
        for name, model in models.items():
            refuse_unmatchable(config.reward, model, name)
        unknown_from = called if options.drop_unknown else None
        own = measured_reward(
            options.reward,
            config,
            dataset,
            device,
            reward,
            options.potential,
            progress,
            unknown_from=unknown_from,
        )
        dataset = own.crystals
    with (
        nullcontext() if own is None else closing(own.reward),
        nullcontext() if plausibility is None else plausibility,
        evaluation_backend(
            options, loaded[places[0]], reward, progress, None if own is None else own.reward
        ) as backend,
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
            None if own is None else own.key,
            options.relax,
        )
        yield evaluator, plausibility, [loaded[path] for path in places]


def _warn_of_schedules(options: CompareOptions, models: Sequence[FlowModel]) -> None:
    """Warn if models that keep their own schedules have different ones."""
    schedules = [describe(model.schedule) or {"kind": "none"} for model in models]
    keep = any(sampling.schedule is None for _, sampling in options.samplings)
    if keep and any(schedule != schedules[0] for schedule in schedules):
        kinds = zip(distinct_names(options.models), (schedule["kind"] for schedule in schedules), strict=True)
        warnings.warn(
            f"the models have schedules of their own, which differ ({', '.join(f'{n}: {kind}' for n, kind in kinds)}), "
            "and so do their results; --schedule bundled (or another) compares the models alone",
            stacklevel=3,
        )


def _name(place: Location | FlowModel) -> str:
    return "in memory" if isinstance(place, FlowModel) else str(place)


def _reward(options: MeasureOptions, models: Sequence[FlowModel], own: str | None) -> MatGLEnergy | None:
    """Load the potential of the energies, if there is one; `own` is that of the reward that is measured too."""
    rewarded = list(dict.fromkeys(model.description.potential for model in models if model.description.potential))
    potential = options.potential or (rewarded[0] if rewarded else own)
    potential = potential or set_with("potential", options.data)
    if potential is None:
        warnings.warn("no energies: the model names no potential; give one with --potential", stacklevel=2)
    if potential is None or potential == NO_POTENTIAL:
        return None
    if options.potential is None and len(rewarded) > 1:
        warnings.warn(
            f"the models were rewarded by different potentials; all energies are from {potential} (--potential)",
            stacklevel=2,
        )
    energy = MatGLEnergy(potential, invalid_energy=options.invalid_energy)
    told = {
        m.description.provenance.get("potential_fingerprint") for m in models if m.description.potential == potential
    }
    now = energy.potential.fingerprint
    if told - {None, now}:
        warnings.warn(
            f"{potential} has other weights now ({now}) than when it rewarded a model: energies are not by the "
            f"potential of its rewards (--potential){WAS_BUNDLED if potential == BUNDLED else ''}",
            stacklevel=2,
        )
    return energy


def distinct_names(places: Sequence[Location]) -> list[str]:
    """Return short names of models: the shortest ends of their paths that tell them apart."""
    parts = [str(path).rstrip("/").split("/") for path in places]
    different = len({tuple(path) for path in parts})
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-length:]) for path in parts]
        if len(set(names)) == different:
            return names
    return [str(path) for path in places]


def flatten_evaluation(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Return an evaluation (from `Evaluation.as_dict`) with its metrics at the top level."""
    return {**evaluation["metrics"], **{key: value for key, value in evaluation.items() if key != "metrics"}}


def relaxation_line(evaluation: Evaluation) -> str:
    """Say what a generated and relaxed crystal took; empty if nothing was relaxed."""
    if evaluation.processor_seconds is None:
        return ""
    steps, seconds = evaluation.settings["relax"], evaluation.processor_seconds / len(evaluation.ids)
    return f"relaxed: in at most {steps} steps; {seconds:.3f} processor seconds to generate and relax a crystal"


def domain_line(evaluation: Evaluation) -> str:
    """Say which share of the references is in domain, and in that of what."""
    share, who = evaluation.in_domain, evaluation.settings["domain_of"]
    if share is None:
        return "references in domain: unknown, since the model does not say what it was trained on"
    return f"references in the domain of {' and '.join(who)}: {share:.1%}"


def table(rows: list[dict[str, Any]]) -> str:
    """Format evaluations (from `Evaluation.as_dict`) as a plain-text table, one line each, with what capped means.

    Relaxed crystals have a line of their own below. Metrics that no evaluation has are left out.
    """
    measured = measured_columns(row["metrics"] for row in rows)
    columns = {key: column for key, column in measured.items() if not is_relaxed(key)}
    lines = [["", *(column.short for column in columns.values())]]

    def add(label: str, metrics: Mapping[str, Any], prefix: str = "") -> None:
        values = [(metrics.get(f"{prefix}{key}"), column.form) for key, column in columns.items()]
        lines.append([label, *("-" if value is None else form.format(value) for value, form in values)])

    for row in rows:
        add(row["label"], row["metrics"])
        if was_relaxed(row["metrics"]):
            add(relaxed_label(row["metrics"]), row["metrics"], RELAXED)
    text = aligned(lines, left=[0])
    return f"{text}\n{fill(CAPPED, LINE)}" if "relative_energy_mean_capped" in columns else text
