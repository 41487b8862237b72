"""`omatg-ray evaluate`: how good a model is on crystals that are known."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omatg_ray.bundle import BUNDLED, crystals, is_bundled
from omatg_ray.commands.setup import SamplingOptions, read, warn_generated_species, warn_noiseless, warn_unfamiliar
from omatg_ray.commands.workforce import evaluation_bench
from omatg_ray.evaluate.chemistry import PlausibilityCheck, with_plausibility
from omatg_ray.evaluate.evaluation import Evaluation, Evaluator
from omatg_ray.evaluate.metrics import measured_columns
from omatg_ray.model import FlowModel
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.run.atomic import write_json

NO_POTENTIAL = "none"


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(SamplingOptions):
    """What to evaluate.

    Without a potential, that which rewarded the model, else for bundled data the bundled one; "none" measures no
    energies.

    Attributes:
        data: File or URL of reference crystals, or bundled: the test split of the bundled ones.
        limit: Use this many references, spread over the file; None uses all.
        invalid_energy: eV/atom that invalid crystals count in the capped mean.
        plausibility: Measure over chemically plausible crystals too, with SMACT and matminer.
    """

    data: str | Path
    limit: int | None = None
    invalid_energy: float = 3.0
    plausibility: bool = False


def evaluate(options: EvaluateOptions, progress: bool = False) -> Evaluation:
    """Generates one crystal per reference and compares.

    Crystals of a model that generates species have the numbers of atoms of the references, and are not matched.

    Raises:
        ConfigError: Plausibility is asked for without the packages that it needs.
        ModelError: The model cannot be read.
        DataError: The data cannot be read.
        PotentialError: The potential cannot be loaded or does not know an element of the data.
        ClusterError: There is no Ray cluster, it has no room, or an actor died.
    """
    device = options.prepare()
    plausibility = PlausibilityCheck(options.workers) if options.plausibility else None
    model = FlowModel.load(options.model, device)
    data = crystals("test") if is_bundled(options.data) else options.data
    dataset = read(data, progress)
    warn_unfamiliar(model, dataset.elements, dataset.sizes)
    warn_noiseless(model, options.noise)
    warn_generated_species(model)
    potential = options.potential or model.description.potential or (BUNDLED if is_bundled(options.data) else None)
    reward = None
    if potential is None:
        warnings.warn("no energies: the model names no potential; give one with --potential", stacklevel=2)
    elif potential != NO_POTENTIAL:
        reward = MatGLEnergy(potential, invalid_energy=options.invalid_energy, device=device)
        reward.require_elements(dataset.elements)

    with evaluation_bench(options, model, reward, progress) as bench:
        evaluator = Evaluator(dataset, bench, options.seed, options.limit, options.chunk_pairs, options.block)
        label = str(options.model)
        evaluation = evaluator(
            model, options.steps, options.noise, options.schedule, label=label, progress=progress, solver=options.solver
        )
        stol = bench.stol
    if plausibility is None:
        return evaluation
    with plausibility as check:
        metrics = with_plausibility(evaluation, evaluator.references.crystals, check, stol)
    return replace(evaluation, metrics=metrics)


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Metrics at the top level, then what was asked for and the values of every structure."""
    values: dict[str, Any] = evaluation.as_dict()
    write_json(path, {**values.pop("metrics"), **values})


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
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines)
