"""Evaluation in Python: of a model, or of crystals of one's own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from omatg_ray.commands.evaluate import EvaluateOptions
from omatg_ray.commands.evaluate import evaluate as evaluate_model
from omatg_ray.crystal.given import as_dataset
from omatg_ray.errors import ConfigError, ModelError
from omatg_ray.evaluate.evaluation import Evaluation
from omatg_ray.evaluate.given import evaluate_given
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import UNGUIDED, Sampling
from omatg_ray.model.schedule import read_schedule
from omatg_ray.policy.settings import NoiseMode
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.run.checkpoints import model_folder
from omatg_ray.run.location import BUNDLED, NO_POTENTIAL, bundled_set, is_bundled
from omatg_ray.train.device import choose_device

if TYPE_CHECKING:
    from omatg_ray.crystal.given import Given
    from omatg_ray.policy.schedule import Schedule
    from omatg_ray.run.location import Location


def evaluate(
    subject: FlowModel | Given,
    references: Given | None = None,
    *,
    potential: str | None = None,
    steps: int = 50,
    schedule: Schedule | Location | None = None,
    noise: NoiseMode = "none",
    guidance: Sequence[float] = UNGUIDED,
    samples: int = 1,
    limit: int | None = None,
    relax: int = 0,
    seed: int = 0,
    workers: int = os.cpu_count() or 1,
    timeout: float = 10.0,
    device: str = "auto",
    progress: bool = False,
) -> Evaluation:
    """Measure a model, or crystals of one's own, by the measures of `omatg-ray evaluate` (docs/evaluation.md).

    A model generates crystals for every reference, as the command does. Crystals of one's own are compared with the
    references of their compositions (`evaluate_given`); without references, only energies, invalid and unique shares
    are measured.

    Args:
        subject: A model (`FlowModel`, its folder, that of its run, or "bundled"), or crystals: a file, pymatgen
            Structures, ASE Atoms, a `CrystalBatch`.
        references: Known crystals, in the same forms; "bundled", or another set, is the test split of its crystals.
        potential: Potential of the energies: name, folder or "bundled"; "none" measures none. By default that which
            rewarded the model; for crystals of one's own that of the bundled references, or `bundled`.
        steps: Of a model: grid points.
        schedule: Of a model: its schedule, as in `FlowModel.sample`.
        noise, guidance: Of a model: as in `Sampling`.
        samples: Of a model: crystals for each reference.
        limit: Of a model: use this many references, spread over all.
        relax: Of a model: also relax its crystals in at most this many steps each, and measure once more (metrics
            `relaxed_*`, and `relaxed`). Relax crystals of your own with `relax`, and measure what it returns.
        seed: Of a model: seed of start and noise.
        workers: Processes that compare structures; 0 compares in this one.
        timeout: Seconds that one comparison may take.
        device: auto, cpu, cuda or cuda:N.
        progress: Show progress.

    Returns:
        `metrics` has the figures and `intervals` their 95 % intervals; `as_dict()["per_structure"]` the rows.

    Raises:
        ConfigError: A model is to be measured without references; crystals of one's own are to be relaxed, or crystals
            without a potential; or as `read_schedule` and `choose_device`.
        DataError: Crystals cannot be read.
        ModelError: The model cannot be read.
        PotentialError: The potential cannot be loaded or does not know an element.

    Example:
        >>> evaluate("mine.extxyz", "known.csv").metrics                         # doctest: +SKIP
        >>> evaluate("runs/better", "bundled", steps=10).metrics.match_rate      # doctest: +SKIP
    """
    if isinstance(subject, FlowModel) or _is_model(subject):
        if references is None:
            raise ConfigError("references: name known crystals for which the model generates; a file, or bundled")
        named = read_schedule(schedule) if isinstance(schedule, str | Path) else schedule
        options = EvaluateOptions(
            model=subject,
            data=references if isinstance(references, str | Path) else as_dataset(references),
            sampling=Sampling(steps, named, noise, guidance=tuple(guidance)),
            potential=potential,
            samples=samples,
            limit=limit,
            relax=relax,
            seed=seed,
            workers=workers,
            timeout=timeout,
            device=device,
        )
        return evaluate_model(options, progress)
    if relax:
        raise ConfigError("relax: only crystals of a model are relaxed here; relax your own with og.relax first")
    given = as_dataset(subject, progress)
    known = None if references is None else as_dataset(references, progress)
    energy = None
    if potential != NO_POTENTIAL:
        known_by = references if is_bundled(references) else BUNDLED
        energy = MatGLEnergy(potential or known_by, device=choose_device(device))
    return evaluate_given(given, known, energy, workers=workers, timeout=timeout, progress=progress)


def _is_model(subject: object) -> TypeGuard[Location]:
    """Return whether this is the location of a model, rather than crystals."""
    if bundled_set(subject):
        return True
    if not isinstance(subject, str | Path):
        return False
    try:
        return bool(model_folder(Path(subject)))
    except ModelError:
        return False
