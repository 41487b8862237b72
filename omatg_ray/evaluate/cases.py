"""Many evaluations in one call: models, numbers of steps and schedules on one data set, each kept in a file when done.

The name of a file is a hash of all that decides what is in it, so that a call which was interrupted goes on, and one
with more cases adds to those that are there.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import torch
from torch import Tensor, nn

from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.crystal.write import write_structures
from omatg_ray.evaluate.chemistry import PlausibilityCheck, with_plausibility
from omatg_ray.evaluate.compositions import ByComposition
from omatg_ray.evaluate.evaluation import Evaluation
from omatg_ray.evaluate.evaluator import Evaluator
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import EULER, Sampling
from omatg_ray.model.schedule import OWN
from omatg_ray.policy.schedule import describe
from omatg_ray.reward.matching import MatchSettings
from omatg_ray.run.atomic import write_text
from omatg_ray.run.versions import installed

logger = logging.getLogger(__name__)

FORMAT: Final = "omatg_ray.case.1"
DECIDING = ("omatg-ray", "pymatgen", "matgl")
"""Packages whose versions decide a result: what is valid, what matches, what an energy is."""
CASES = "cases"
"""Folder of the files."""


@dataclass(frozen=True)
class Case:
    """A sampler.

    Attributes:
        model: Generates.
        sampling: How.
        name: What tables call the model.
        schedule_name: What tables call the annealing.
    """

    model: FlowModel
    sampling: Sampling
    name: str
    schedule_name: str = OWN

    @property
    def way(self) -> str:
        """How it generates: the schedule, and what is not as usual."""
        noise, solver = self.sampling.noise, self.sampling.solver
        unusual = [*(["policy noise"] if noise == "policy" else []), *([] if solver == EULER else [solver])]
        return ", ".join([self.schedule_name, *unusual])

    @property
    def label(self) -> str:
        """All that tells it from others, in one line."""
        return f"{self.name}, {self.sampling.steps} points" + ("" if self.way == OWN else f", {self.way}")


@dataclass(frozen=True)
class CaseResult:
    """What an evaluation of a case gave, in this call or in an earlier one.

    Attributes:
        key: Hash of what decides it.
        name: What the model is called.
        steps: Grid points.
        way: How it generates: what the schedule is called, and what is not as usual.
        values: The evaluation as `Evaluation.as_dict` gives it.
        by_composition: The same composition by composition.
        seconds: That it took, with matches and energies.
        generation_seconds: That generating took, added up over all who generated.
        evaluation: The evaluation itself; None where it comes from a file.
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

    @cached_property
    def label(self) -> str:
        """As that of the case."""
        return str(self.values["label"])

    @property
    def metrics(self) -> dict[str, Any]:
        """As `CSPMetrics.as_dict` gives them."""
        found: dict[str, Any] = self.values["metrics"]
        return found

    @property
    def seconds_per_1000(self) -> float:
        """Seconds in which one who generates makes a thousand crystals."""
        return 1000.0 * self.generation_seconds / max(int(self.metrics["n"]), 1)

    def called(self, case: Case) -> Self:
        """Under the names of a case of this call: a model may have been called otherwise before."""
        values = self.values | {"label": case.label}
        return replace(self, name=case.name, way=case.way, values=values)

    def as_dict(self, conditions: str) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "format": FORMAT,
            "key": self.key,
            "conditions": conditions,
            "name": self.name,
            "steps": self.steps,
            "way": self.way,
            "seconds": self.seconds,
            "generation_seconds": self.generation_seconds,
            "evaluation": self.values,
            "by_composition": self.by_composition.as_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `as_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: Something else.
        """
        if values["format"] != FORMAT:
            raise ValueError(f"not {FORMAT}")
        evaluation = values["evaluation"]
        int(evaluation["metrics"]["n"]), evaluation["per_structure"]["id"], evaluation["intervals"]
        return cls(
            key=str(values["key"]),
            name=str(values["name"]),
            steps=int(values["steps"]),
            way=str(values["way"]),
            values=evaluation,
            by_composition=ByComposition.from_dict(values["by_composition"]),
            seconds=float(values["seconds"]),
            generation_seconds=float(values["generation_seconds"]),
        )


class CaseFolder:
    """The files of cases: `cases/<key>.json` and, beside it, the crystals as `cases/<key>.extxyz`.

    Args:
        folder: Where `cases` is, or will be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / CASES

    def crystals(self, key: str) -> Path:
        """The file of a case's crystals."""
        return self.folder / f"{key}.extxyz"

    def write(self, result: CaseResult, conditions: str) -> None:
        """Keeps a result that has just been computed. Its JSON comes last: where that is, the result is whole."""
        evaluation = result.evaluation
        assert evaluation is not None
        known = [("energy_per_atom", evaluation.energy), ("rmse", evaluation.match)]
        columns = {name: values.tolist() for name, values in known if values is not None}
        rows = [
            {"material_id": ident, **{name: values[row] for name, values in columns.items()}}
            for row, ident in enumerate(evaluation.ids)
        ]
        write_structures(self.crystals(result.key), evaluation.crystals.to_structures(), rows)
        text = json.dumps(result.as_dict(conditions), allow_nan=False)
        write_text(self.folder / f"{result.key}.json", text + "\n")

    def read(self, key: str) -> CaseResult | None:
        """The result of a case; None where there is none, or where its file is torn or somebody else's."""
        found = self._read(self.folder / f"{key}.json")
        return found[0] if found is not None and found[0].key == key else None

    def others(self, conditions: str, keys: Sequence[str]) -> list[CaseResult]:
        """Results of other cases under the same conditions, which can be compared with those of these keys."""
        found = [self._read(path) for path in sorted(self.folder.glob("*.json")) if path.stem not in keys]
        apart = sum(one is not None and one[1] != conditions for one in found)
        if apart:
            logger.warning(
                "%s holds %d cases evaluated under other conditions (references, seed, samples, potential, versions), "
                "which do not compare with these and are not shown",
                self.folder,
                apart,
            )
        comparable = [one[0] for one in found if one is not None and one[1] == conditions]
        return sorted(comparable, key=lambda one: (one.name, one.way, one.steps, one.key))

    def _read(self, path: Path) -> tuple[CaseResult, str] | None:
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            result = CaseResult.from_dict(values)
            return (result, str(values["conditions"])) if self.crystals(result.key).is_file() else None
        except (OSError, KeyError, TypeError, ValueError):
            return None


def evaluate_cases(
    cases: Sequence[Case],
    evaluator: Evaluator,
    folder: Path | None = None,
    *,
    plausibility: PlausibilityCheck | None = None,
    progress: bool = False,
) -> list[CaseResult]:
    """Evaluates cases one after the other, with the next one on its way: actors go on while one is finished.

    Args:
        cases: What to evaluate; cases that are the same are evaluated once.
        evaluator: On which crystals, with which seed and how many samples.
        folder: Where to keep what is done, and to look for what has been done before; None keeps nothing.
        plausibility: Measures over plausible crystals too.
        progress: Show a progress bar for every case.

    Returns:
        The results, in the order of the cases.
    """
    conditions = conditions_of(evaluator, plausible=plausibility is not None)
    kept = None if folder is None else CaseFolder(folder)
    keys = [key_of(case, conditions) for case in cases]
    results: dict[str, CaseResult] = {}
    for key in keys if kept is not None else ():
        if kept is not None and (found := kept.read(key)) is not None:
            results[key] = found
    missing = {key: case for key, case in zip(keys, cases, strict=True) if key not in results}
    order = list(missing.items())

    def start(place: int) -> Any:
        if place >= len(order):
            return None
        case = order[place][1]
        return evaluator.start(case.model, case.sampling, case.label)

    following = start(0)
    for place, (key, case) in enumerate(order):
        started, following = following, start(place + 1)
        title = f"{place + 1}/{len(order)} {case.label}" if len(order) > 1 else case.label
        evaluation: Evaluation = started.finish(progress, title)
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
        )
        if kept is not None:
            kept.write(results[key], conditions)
    return [results[key].called(case) for key, case in zip(keys, cases, strict=True)]


# --- what decides a result ------------------------------------------------------------------------------------------


def conditions_of(evaluator: Evaluator, *, plausible: bool = False) -> str:
    """Hash of what decides a result apart from the case; equal ones can be compared row by row."""
    reward = evaluator.backend.energy
    energies = None if reward is None else (reward.potential.fingerprint, reward.invalid_energy, reward.repulsion)
    tolerances = astuple(replace(MatchSettings(), stol=evaluator.backend.stol))
    found = installed(DECIDING)
    decided = {
        "versions": {name: found.get(name) for name in DECIDING},
        "data": dataset_fingerprint(evaluator.known),
        "rows": evaluator.references.ids,
        "seed": evaluator.seed,
        "samples": evaluator.samples,
        "energies": energies,
        "tolerances": tolerances,
        "timeout": evaluator.timeout,
        "plausible": plausible,
    }
    return _hash(json.dumps(decided, sort_keys=True).encode())


def key_of(case: Case, conditions: str) -> str:
    """Hash of all that decides a result: the case, and the conditions it is evaluated under."""
    decided = {
        "format": FORMAT,
        "conditions": conditions,
        "model": model_fingerprint(case.model),
        "steps": case.sampling.steps,
        "schedule": describe(case.sampling.schedule),
        "noise": case.sampling.noise,
        "solver": case.sampling.solver,
    }
    return _hash(json.dumps(decided, sort_keys=True).encode())


def model_fingerprint(model: FlowModel) -> str:
    """Short hash of what a model is made of; how it came about (its provenance) has no part in it."""
    described = model.description.model_dump_json(exclude={"provenance"})
    return _hash(described.encode(), _state(model.base_network), _state(model.learned))


def dataset_fingerprint(dataset: CrystalDataset) -> str:
    """Short hash of crystals and their ids."""
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
