"""Many evaluations in one call: models, numbers of steps and schedules on one data set, each saved when done.

The name of a file is a hash of everything that determines its content. So an interrupted call resumes, and a call with
more cases adds to the existing ones.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import torch
from torch import Tensor, nn

from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.crystal.domain import share_inside
from omatg_ray.crystal.write import write_structures
from omatg_ray.evaluate.chemistry import PlausibilityCheck, with_plausibility
from omatg_ray.evaluate.compositions import ByComposition
from omatg_ray.evaluate.evaluation import Evaluation
from omatg_ray.evaluate.evaluator import Evaluator
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import EULER, UNGUIDED, Sampling, in_short
from omatg_ray.model.schedule import OWN
from omatg_ray.policy.schedule import describe
from omatg_ray.reward.matching import MatchSettings
from omatg_ray.run.atomic import write_text
from omatg_ray.run.versions import installed

logger = logging.getLogger(__name__)

FORMAT: Final = "omatg_ray.case.1"
DECIDING = ("omatg-ray", "pymatgen", "matgl")
"""Packages whose versions affect a result: validity, matches or energies."""
CASES = "cases"
"""Folder of the files."""
PLAIN = {"key": str, "name": str, "steps": int, "way": str, "seconds": float, "generation_seconds": float}
"""Attributes of a result that its file holds as they are, with their types."""
COLUMNS = ("energy_per_atom", "rmse")
"""Measured values that are written beside the crystals of a case."""


@dataclass(frozen=True)
class Case:
    """A sampler.

    Attributes:
        model: Model that generates.
        sampling: Settings of the sampler.
        name: Name of the model in tables.
        schedule_name: Name of the schedule in tables.
    """

    model: FlowModel
    sampling: Sampling
    name: str
    schedule_name: str = OWN

    @property
    def way(self) -> str:
        """How it generates: the schedule, and all that differs from the defaults."""
        noise, solver, guidance = self.sampling.noise, self.sampling.solver, self.sampling.guidance
        unusual = [*(["policy noise"] if noise == "policy" else []), *([] if solver == EULER else [solver])]
        if guidance != UNGUIDED:
            unusual.append(f"guidance {in_short(guidance)}")
        return ", ".join([self.schedule_name, *unusual])

    @property
    def label(self) -> str:
        """All that distinguishes it from other cases, in one line."""
        return f"{self.name}, {self.sampling.steps} points" + ("" if self.way == OWN else f", {self.way}")


@dataclass(frozen=True)
class CaseResult:
    """Result of a case, from this call or an earlier one.

    Attributes:
        key: Hash of what determines it.
        name: Name of the model.
        steps: Grid points.
        way: How it generates: the name of the schedule, and all that differs from the defaults.
        values: The evaluation as returned by `Evaluation.as_dict`.
        by_composition: The same by composition.
        seconds: Duration, including matches and energies.
        generation_seconds: Seconds spent generating, summed over all processes.
        evaluation: The evaluation itself; None if it was read from a file.
        processor_seconds: Processor seconds spent generating and relaxing; None where nothing was relaxed.
    """

    key: str
    name: str
    steps: int
    way: str
    values: dict[str, Any]
    by_composition: ByComposition
    seconds: float
    generation_seconds: float
    evaluation: Evaluation | None = None
    processor_seconds: float | None = None

    @property
    def label(self) -> str:
        """Label of the case."""
        return str(self.values["label"])

    @property
    def metrics(self) -> dict[str, Any]:
        """Metrics as returned by `CSPMetrics.as_dict`."""
        return self.values["metrics"]

    def interval(self, metric: str) -> dict[str, Any]:
        """Return a metric and its interval as in `interval_dict`; the value may be a median rather than a mean."""
        return {**(self.values["intervals"].get(metric) or {}), "mean": self.metrics.get(metric)}

    @property
    def seconds_per_1000(self) -> float:
        """Seconds that one process or actor needs to generate a thousand crystals."""
        return 1000.0 * self.generation_seconds / max(int(self.metrics["n"]), 1)

    @property
    def processor_seconds_per_sample(self) -> float | None:
        """Processor seconds for a crystal, generated and relaxed; None where nothing was relaxed."""
        spent = self.processor_seconds
        return None if spent is None else spent / max(int(self.metrics["n"]), 1)

    def called(self, case: Case) -> Self:
        """Return a copy with the names of a case of this call: the model may have had another name before."""
        values = self.values | {"label": case.label}
        return replace(self, name=case.name, way=case.way, values=values)

    def judged(self, evaluator: Evaluator, model: FlowModel) -> Self:
        """Return a copy with what the model and the potential say now of their domains, which are not in the key."""
        domain = evaluator.judge(model)
        new = {
            "domain_of": evaluator.domain_of(model),
            "in_domain": share_inside(domain),
            "per_structure": self.values["per_structure"] | {"domain": domain * evaluator.samples},
        }
        return replace(self, values=self.values | new)

    def as_dict(self, conditions: str) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return {
            "format": FORMAT,
            "conditions": conditions,
            **{name: getattr(self, name) for name in PLAIN},
            **({} if self.processor_seconds is None else {"processor_seconds": self.processor_seconds}),
            "evaluation": self.values,
            "by_composition": self.by_composition.as_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `as_dict` returned.

        Raises:
            KeyError, TypeError, ValueError: The values have another form.
        """
        if values["format"] != FORMAT:
            raise ValueError(f"not {FORMAT}")
        evaluation = values["evaluation"]
        int(evaluation["metrics"]["n"]), evaluation["per_structure"]["id"], evaluation["intervals"]
        plain: dict[str, Any] = {name: kind(values[name]) for name, kind in PLAIN.items()}
        by_composition = ByComposition.from_dict(values["by_composition"])
        spent = values.get("processor_seconds")
        return cls(
            **plain,
            values=evaluation,
            by_composition=by_composition,
            processor_seconds=None if spent is None else float(spent),
        )


def crystals_of_case(folder: Path, key: str) -> Path:
    """Return the path of a case's crystals: `cases/<key>.extxyz`, beside the result, `cases/<key>.json`."""
    return folder / CASES / f"{key}.extxyz"


def relaxed_of_case(folder: Path, key: str) -> Path:
    """Return the path of a case's relaxed crystals, if it has any: `cases/<key>_relaxed.extxyz`."""
    return folder / CASES / f"{key}_relaxed.extxyz"


def _write_case(folder: Path, result: CaseResult, conditions: str, columns: Collection[str]) -> None:
    """Save a new result, with some columns beside its crystals.

    The JSON file is written last: if it exists, the result is complete.
    """
    evaluation = result.evaluation
    assert evaluation is not None
    for path, found in (
        (crystals_of_case(folder, result.key), evaluation),
        (relaxed_of_case(folder, result.key), evaluation.relaxed),
    ):
        if found is None:
            continue
        known = zip(COLUMNS, (found.energy, found.match), strict=True)
        written = {name: values.tolist() for name, values in known if name in columns and values is not None}
        rows = [
            {"material_id": ident, **{name: values[row] for name, values in written.items()}}
            for row, ident in enumerate(evaluation.ids)
        ]
        write_structures(path, found.crystals.to_structures(), rows)
    _write_values(folder, result, conditions)


def _write_values(folder: Path, result: CaseResult, conditions: str) -> None:
    text = json.dumps(result.as_dict(conditions), allow_nan=False)
    write_text(folder / CASES / f"{result.key}.json", text + "\n")


def _read_case(folder: Path, key: str) -> tuple[CaseResult, str] | None:
    """Read a result and its conditions; None if there is none, or if its file is damaged or belongs to another."""
    try:
        values = json.loads((folder / CASES / f"{key}.json").read_text(encoding="utf-8"))
        result = CaseResult.from_dict(values)
        whole = result.key == key and crystals_of_case(folder, key).is_file()
        whole = whole and (result.processor_seconds is None or relaxed_of_case(folder, key).is_file())
        return (result, str(values["conditions"])) if whole else None
    except (OSError, KeyError, TypeError, ValueError):
        return None


def other_cases(folder: Path, conditions: str, keys: Sequence[str]) -> list[CaseResult]:
    """Read the results of other cases under the same conditions, which are comparable with those of these keys.

    Args:
        folder: Folder that was given to `evaluate_cases`.
        conditions: From `conditions_of`.
        keys: Keys of the cases that are left out.
    """
    others = [path.stem for path in sorted((folder / CASES).glob("*.json")) if path.stem not in keys]
    entries = [entry for key in others if (entry := _read_case(folder, key)) is not None]
    comparable = [result for result, own in entries if own == conditions]
    if len(comparable) < len(entries):
        logger.warning(
            "%s holds %d cases evaluated under other conditions (references, seed, samples, potential, relaxation, "
            "versions), which are not comparable with these and are not shown",
            folder / CASES,
            len(entries) - len(comparable),
        )
    return sorted(comparable, key=lambda result: (result.name, result.way, result.steps, result.key))


def evaluate_cases(
    cases: Sequence[Case],
    evaluator: Evaluator,
    folder: Path | None = None,
    *,
    plausibility: PlausibilityCheck | None = None,
    columns: Collection[str] = COLUMNS,
    progress: bool = False,
) -> list[CaseResult]:
    """Evaluate cases one after the other. The next one starts early, so that actors stay busy while one finishes.

    Args:
        cases: Cases to evaluate; equal ones are evaluated once.
        evaluator: Evaluator, with crystals, seed and number of samples.
        folder: Folder for results, in which earlier ones are looked up; None saves nothing.
        plausibility: Adds metrics over plausible crystals.
        columns: Measured values to write beside the crystals, of `COLUMNS`.
        progress: Whether to show a progress bar for every case.

    Returns:
        The results, in the order of the cases.
    """
    conditions = conditions_of(evaluator, plausible=plausibility is not None)
    keys = [key_of(case, conditions) for case in cases]
    earlier = [] if folder is None else [entry for key in keys if (entry := _read_case(folder, key)) is not None]
    results = {result.key: result for result, _ in earlier}
    for key, case in zip(keys, cases, strict=True):
        if key in results and folder is not None:
            judged = results[key].judged(evaluator, case.model)
            if judged.values != results[key].values:
                _write_values(folder, judged, conditions)
            results[key] = judged
    missing = {key: case for key, case in zip(keys, cases, strict=True) if key not in results}
    begun = (evaluator.start(case.model, case.sampling, case.label) for case in missing.values())
    following = next(begun, None)
    for number, (key, case) in enumerate(missing.items(), start=1):
        started, following = following, next(begun, None)
        assert started is not None
        title = f"{number}/{len(missing)} {case.label}" if len(missing) > 1 else case.label
        evaluation = started.finish(progress, title)
        if plausibility is not None:
            crystals = evaluator.references.crystals
            evaluation = with_plausibility(evaluation, crystals, plausibility, evaluator.backend.stol)
        results[key] = CaseResult(
            key=key,
            name=case.name,
            steps=case.sampling.steps,
            way=case.way,
            values=evaluation.as_dict(),
            by_composition=evaluation.by_composition,
            seconds=evaluation.seconds,
            generation_seconds=evaluation.generation_seconds,
            evaluation=evaluation,
            processor_seconds=evaluation.processor_seconds,
        )
        if folder is not None:
            _write_case(folder, results[key], conditions, columns)
    return [results[key].called(case) for key, case in zip(keys, cases, strict=True)]


# --- fingerprints ---------------------------------------------------------------------------------------------------


def conditions_of(evaluator: Evaluator, *, plausible: bool = False) -> str:
    """Return a hash of what determines a result apart from the case; if equal, results are comparable row by row."""
    reward = evaluator.backend.energy
    energies = None if reward is None else (reward.potential.fingerprint, reward.invalid_energy, reward.repulsion)
    tolerances = astuple(replace(MatchSettings(), stol=evaluator.backend.stol))
    versions = installed(DECIDING)
    decided = {
        "versions": {name: versions.get(name) for name in DECIDING},
        "data": dataset_fingerprint(evaluator.known),
        "rows": evaluator.references.ids,
        "seed": evaluator.seed,
        "samples": evaluator.samples,
        "energies": energies,
        "tolerances": tolerances,
        "timeout": evaluator.timeout,
        "plausible": plausible,
    }
    if evaluator.reward_key is not None:  # Not otherwise: the keys of results without a reward have to stay.
        decided["reward"] = evaluator.reward_key
    if evaluator.relax:  # Likewise.
        decided["relax"] = evaluator.relax
    return _hash(json.dumps(decided, sort_keys=True).encode())


def key_of(case: Case, conditions: str) -> str:
    """Return a hash of everything that determines a result: the case, and the conditions it is evaluated under."""
    decided = {
        "format": FORMAT,
        "conditions": conditions,
        "model": model_fingerprint(case.model),
        "steps": case.sampling.steps,
        "schedule": describe(case.sampling.schedule),
        "noise": case.sampling.noise,
        "solver": case.sampling.solver,
    }
    if case.sampling.guidance != UNGUIDED:  # Not otherwise: the keys of results without it have to stay.
        decided["guidance"] = case.sampling.guidance
    return _hash(json.dumps(decided, sort_keys=True).encode())


def model_fingerprint(model: FlowModel) -> str:
    """Return a short hash of a model, leaving out what decides no result: provenance and domain."""
    described = model.description.model_dump_json(exclude={"provenance", "domain"})
    return _hash(described.encode(), _state(model.base_network), _state(model.learned))


def dataset_fingerprint(dataset: CrystalDataset) -> str:
    """Return a short hash of crystals and their ids."""
    crystals = dataset.crystals
    arrays = (crystals.n_atoms, crystals.species, crystals.pos, crystals.cell)
    return _hash(json.dumps(dataset.ids).encode(), *map(_bytes, arrays))


def _state(module: nn.Module) -> bytes:
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(_bytes(value))
    return digest.digest()


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _hash(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:16]
