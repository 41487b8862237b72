"""Measures of crystals that were not generated for the references: each is compared with those of its composition."""

from __future__ import annotations

import math
import time
import warnings
from collections import defaultdict
from typing import Any, NamedTuple

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.crystal.domain import judge
from omatg_ray.crystal.validity import check_validity
from omatg_ray.evaluate.compositions import ByComposition
from omatg_ray.evaluate.domain import trained_on
from omatg_ray.evaluate.evaluation import Evaluation
from omatg_ray.evaluate.metrics import CSPMetrics, energy_quantiles, energy_rows, match_rows, mean
from omatg_ray.evaluate.polymorphs import lowest_of
from omatg_ray.evaluate.settings import BLOCK
from omatg_ray.evaluate.unique import find_unique
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.matching import Composition, Matcher, compositions
from omatg_ray.run.progress import Progress


def evaluate_given(
    given: CrystalDataset,
    references: CrystalDataset | None,
    energy: MatGLEnergy | None,
    *,
    workers: int = 0,
    timeout: float = 10.0,
    progress: bool = False,
) -> Evaluation:
    """Measure crystals, and compare each with the references of its reduced composition.

    - A crystal matches if it matches any of them (`match_rate`; `rmse` of the closest). `match_lowest` is the share
      whose closest one is the lowest in energy, where there are several.
    - Its energy is relative to the lowest of them.
    - METRe is over the references whose composition was given.
    - A crystal without such references counts in `invalid_share`, `unique_share` and `energy_mean` alone;
      `same_composition` is the number of the others.

    Args:
        given: B crystals; rows of the result, with their ids.
        references: Known crystals; None compares with nothing.
        energy: Potential of the energies; None measures none.
        workers: Processes that compare structures; 0 compares in this one.
        timeout: Seconds that one comparison may take.
        progress: Show progress.

    Raises:
        PotentialError: The potential does not know an element.
    """
    start, crystals = time.perf_counter(), given.crystals
    if energy is not None:
        energy.require_elements(given.elements)
    valid, weights = check_validity(crystals).valid, _weigh(crystals, energy, progress)
    unique = torch.zeros(len(given), dtype=torch.bool)
    unique[find_unique(crystals, weights, workers=workers, timeout=timeout).representatives] = True
    rows = {"invalid_share": (~valid).double(), "unique_share": (unique & valid).double()}
    others: dict[str, Any] = {}
    if weights is not None:
        others["energy_mean"] = mean(weights.where(valid & weights.isfinite(), torch.nan))
    by_composition = ByComposition.of(given.compositions)
    match, relative = torch.full((len(given),), torch.nan, dtype=torch.float64), None
    polymorph: list[str | None] | None = None
    lowest: list[str | None] | None = None
    compared = None if references is None else _Compared.of(given, references)
    if compared is not None:
        references, has = compared.references, torch.tensor([bool(rows) for rows in compared.same])
        matched = compared.match(crystals, workers, timeout, progress)
        closest, match = matched.closest, matched.rmse
        rows |= {name: values.where(has, torch.nan) for name, values in match_rows(match, matched.stol).items()}
        recalled = sum(any(row in found for found in matched.found) for row in range(len(references)))
        others |= {
            "metre": recalled / len(references),
            "same_composition": int(has.sum()),
            "timed_out": matched.timed_out,
            "failed": matched.failed,
        }
        polymorph = [None if row is None else references.ids[row] for row in closest]
        their_weights = _weigh(references.crystals, energy, progress)
        if weights is not None and their_weights is not None and energy is not None:
            best = lowest_of(compared.same, dict(enumerate(their_weights.tolist())))
            lowest = [None if row is None else references.ids[row] for row in best]
            base = torch.tensor([math.nan if row is None else float(their_weights[row]) for row in best]).double()
            of_energies = energy_rows(weights, base, valid, energy.invalid_energy)
            relative = weights - base
            rows |= of_energies
            others |= energy_quantiles(of_energies["relative_energy_mean"])
            by_composition = by_composition.with_medians(of_energies["relative_energy_mean"])
            several = torch.tensor([len(same) > 1 for same in compared.same])
            if several.any():
                right = torch.tensor([a is not None and a == b for a, b in zip(closest, best, strict=True)])
                rows["match_lowest"] = right.double().where(several, torch.nan)
                others["n_polymorphic"] = int(several.sum())
    trained = trained_on({}, [energy])
    return Evaluation(
        metrics=CSPMetrics(**{"n": len(given)} | {name: mean(values) for name, values in rows.items()} | others),
        ids=given.ids,
        crystals=crystals,
        valid=valid,
        match=match,
        polymorph=polymorph,
        lowest_polymorph=lowest,
        energy=weights,
        relative_energy=relative,
        relative_energy_capped=rows.get("relative_energy_mean_capped"),
        settings={
            "label": "given",
            "samples": 1,
            "potential": None if energy is None else energy.potential.name,
            "domain_of": [one.who for one in trained if one.domain is not None],
        },
        by_composition=by_composition.with_rows(rows),
        seconds=time.perf_counter() - start,
        generation_seconds=0.0,
        domain=[judge(trained, cell) for cell in crystals.atomic_numbers],
    )


class _Matched(NamedTuple):
    """Matches of B crystals.

    Attributes:
        found: RMSE to each reference that a crystal matches, by its row.
        closest: The closest of them.
        rmse: Its RMSE (B,), NaN where there is none.
    """

    found: list[dict[int, float]]
    closest: list[int | None]
    rmse: Tensor
    stol: float
    timed_out: int
    failed: int


class _Compared(NamedTuple):
    """References whose reduced composition occurs among given crystals.

    Attributes:
        references: These.
        same: Rows of those with the composition of each given crystal.
    """

    references: CrystalDataset
    same: list[list[int]]

    @classmethod
    def of(cls, given: CrystalDataset, references: CrystalDataset) -> _Compared | None:
        """Find them; warn and return None if there are none."""
        keys = compositions(given.crystals)
        theirs, asked = compositions(references.crystals), set(keys)
        used = [row for row, key in enumerate(theirs) if key in asked]
        if not used:
            warnings.warn(
                "no reference has a composition of the given crystals: matches and relative energies are not measured",
                stacklevel=3,
            )
            return None
        rows: dict[Composition, list[int]] = defaultdict(list)
        for row, known in enumerate(used):
            rows[theirs[known]].append(row)
        return cls(references.select(used), [rows.get(key, []) for key in keys])

    def match(self, crystals: CrystalBatch, workers: int, timeout: float, progress: bool) -> _Matched:
        """Match every crystal with all references of its composition."""
        found: list[dict[int, float]] = []
        timed_out = failed = 0
        with Matcher(workers, timeout) as matcher, Progress(len(crystals), "match", shown=progress) as bar:
            for block in torch.arange(len(crystals)).split(BLOCK):
                numbers = block.tolist()
                pairs = [(i, row) for i, number in enumerate(numbers) for row in self.same[number]]
                result = matcher.listed(crystals.select(block), self.references.crystals, pairs)
                matches: list[dict[int, float]] = [{} for _ in numbers]
                for (i, row), value in zip(pairs, result.rmse.tolist(), strict=True):
                    if not math.isnan(value):
                        matches[i][row] = value
                found += matches
                timed_out, failed = timed_out + result.timed_out, failed + result.failed
                bar.advance(steps=len(numbers))
        closest = [min(rmse, key=rmse.__getitem__, default=None) for rmse in found]
        nearest = [math.nan if row is None else rmse[row] for row, rmse in zip(closest, found, strict=True)]
        values = torch.tensor(nearest, dtype=torch.float64)
        return _Matched(found, closest, values, matcher.settings.stol, timed_out, failed)


def _weigh(crystals: CrystalBatch, energy: MatGLEnergy | None, progress: bool) -> Tensor | None:
    """Return the energies (B,) in eV/atom, NaN where invalid or failed; None without a potential."""
    if energy is None:
        return None
    parts = []
    with Progress(len(crystals), "energies", shown=progress) as bar:
        for rows in torch.arange(len(crystals)).split(BLOCK):
            parts.append(energy(crystals.select(rows)).values["energy_per_atom"])
            bar.advance(steps=len(rows))
    return torch.cat(parts)
