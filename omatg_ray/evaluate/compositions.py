"""An evaluation, composition by composition, and what a bootstrap over compositions says of its metrics.

Crystals of one composition are not independent: a sampler that knows it gets all its polymorphs and samples right. So
whole compositions are drawn, with replacement, and every metric is computed of what was drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from omatg_ray.errors import DataError
from omatg_ray.evaluate.metrics import BOOTSTRAP_ENTRIES_AT_ONCE, Interval

CONFIDENCE = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True)
class Totals:
    """What a mean consists of: its sum and its number of rows in every composition, float64 (G,) each."""

    sums: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class ByComposition:
    """Metrics that are means over rows, as their totals in every composition.

    Attributes:
        names: Reduced formulas (G,).
        place: Composition of every reference, as an index into `names` (n,).
        totals: By metric.
        medians: Median relative energy of the valid crystals of every composition (G,), NaN where there are none.
    """

    names: list[str]
    place: list[int]
    totals: dict[str, Totals]
    medians: list[float]

    @classmethod
    def of(cls, compositions: Sequence[str]) -> Self:
        """Without any metrics yet, of references with these compositions."""
        index = {name: place for place, name in enumerate(dict.fromkeys(compositions))}
        return cls(list(index), [index[name] for name in compositions], {}, [math.nan] * len(index))

    @cached_property
    def references(self) -> list[int]:
        """References of every composition (G,)."""
        return np.bincount(self.place, minlength=len(self.names)).tolist()

    def with_rows(self, rows: Mapping[str, Tensor]) -> Self:
        """With more metrics.

        Args:
            rows: By metric, what it is the mean of: one value per reference, or several samples one after the other
                (a multiple of n,). Rows that are NaN are left out.
        """
        totals = {}
        for name, values in rows.items():
            numbers = values.detach().double().cpu().numpy()
            groups = np.tile(self.place, len(numbers) // max(len(self.place), 1))
            there = ~np.isnan(numbers)
            size = len(self.names)
            sums = np.bincount(groups[there], weights=numbers[there], minlength=size).astype(float)
            counts = np.bincount(groups[there], minlength=size).astype(float)
            totals[name] = Totals(sums, counts)
        return replace(self, totals=self.totals | totals)

    def with_medians(self, relative: Tensor) -> Self:
        """With the medians of relative energies, in rows as `with_rows` takes them."""
        numbers = relative.detach().double().cpu().numpy()
        groups = np.tile(self.place, len(numbers) // max(len(self.place), 1))
        there = np.isfinite(numbers)
        found = {int(group): float(np.median(numbers[there & (groups == group)])) for group in np.unique(groups[there])}
        return replace(self, medians=[found.get(group, math.nan) for group in range(len(self.names))])

    def means(self, metric: str) -> list[float | None]:
        """A metric in every composition (G,); None where it has no rows."""
        found = self.totals.get(metric)
        if found is None:
            return [None] * len(self.names)
        pairs = zip(found.sums.tolist(), found.counts.tolist(), strict=True)
        return [total / count if count else None for total, count in pairs]

    def intervals(self, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Interval]:
        """95 % bootstrap interval of every metric."""
        if not self.totals:
            return {}
        sums, counts = _stacked(self.totals, list(self.totals))
        resampled = np.concatenate(
            [_ratio(drawn @ sums, drawn @ counts) for drawn in _draws(len(sums), resamples, seed)]
        )
        return {
            name: _interval(
                _ratio(sums[:, column].sum(), counts[:, column].sum()), resampled[:, column], counts[:, column]
            )
            for column, name in enumerate(self.totals)
        }

    def differences(self, first: Self, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Interval]:
        """By how much each metric is above that of a first evaluation of the same references, with 95 % intervals.

        The same compositions are drawn for both, so that what is hard for both cancels.

        Raises:
            DataError: The compositions differ.
        """
        if self.names != first.names or self.place != first.place:
            raise DataError("evaluations of different references cannot be paired")
        shared = [name for name in self.totals if name in first.totals]
        if not shared:
            return {}
        (sums, counts), (old_sums, old_counts) = _stacked(self.totals, shared), _stacked(first.totals, shared)
        found = {}
        resampled = np.concatenate(
            [
                _ratio(drawn @ sums, drawn @ counts) - _ratio(drawn @ old_sums, drawn @ old_counts)
                for drawn in _draws(len(sums), resamples, seed)
            ]
        )
        means = _ratio(sums.sum(0), counts.sum(0)) - _ratio(old_sums.sum(0), old_counts.sum(0))
        for column, name in enumerate(shared):
            both = np.minimum(counts[:, column], old_counts[:, column])
            found[name] = _interval(means[column], resampled[:, column], both)
        return found

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        totals = {
            name: {"sums": one.sums.tolist(), "counts": one.counts.astype(int).tolist()}
            for name, one in self.totals.items()
        }
        medians = [None if math.isnan(value) else value for value in self.medians]
        return {"names": self.names, "place": self.place, "totals": totals, "relative_energy_median": medians}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `as_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: Something else.
        """
        size = len(values["names"])
        totals = {
            str(name): Totals(np.array(one["sums"], dtype=float), np.array(one["counts"], dtype=float))
            for name, one in values["totals"].items()
        }
        if any(one.sums.shape != (size,) or one.counts.shape != (size,) for one in totals.values()):
            raise ValueError(f"totals do not fit {size} compositions")
        medians = [math.nan if value is None else float(value) for value in values["relative_energy_median"]]
        return cls(list(values["names"]), [int(place) for place in values["place"]], totals, medians)


def per_composition(values: Tensor) -> Totals:
    """Totals of a metric that has one value per composition (G,)."""
    sums = values.detach().double().cpu().numpy()
    return Totals(sums, np.ones(len(sums)))


def interval_dict(interval: Interval) -> dict[str, float | int | None]:
    """Ready for JSON; limits that are not known are None."""
    bounds = {"mean": interval.mean, "low": interval.low, "high": interval.high}
    return {**{key: value if math.isfinite(value) else None for key, value in bounds.items()}, "n": interval.n}


def covered(hits: Tensor, samples: int, k: int) -> Tensor:
    """Probability that k of a reference's samples, drawn without replacement, hold one that matches it (n,).

    The unbiased estimator of coverage at k (pass@k; Chen et al., arXiv 2107.03374): 1 − C(K − c, k) / C(K, k).

    Args:
        hits: How many of its samples match each reference (n,), 0 to `samples`.
        samples: Samples of every reference, K.
        k: 1 to K.
    """
    values = [1.0 - math.comb(samples - c, k) / math.comb(samples, k) for c in range(samples + 1)]
    return torch.tensor(values, dtype=torch.float64)[hits]


def _stacked(totals: Mapping[str, Totals], names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts (G, metrics)."""
    found = [totals[name] for name in names]
    return np.stack([one.sums for one in found], axis=1), np.stack([one.counts for one in found], axis=1)


def _draws(size: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of `size` compositions is drawn, resample by resample (part, size), in parts."""
    generator = np.random.default_rng(seed)
    at_once = max(1, BOOTSTRAP_ENTRIES_AT_ONCE // max(size, 1))
    for done in range(0, resamples, at_once):
        part = min(at_once, resamples - done)
        drawn = generator.integers(size, size=(part, size)) + size * np.arange(part)[:, None]
        yield np.bincount(drawn.ravel(), minlength=part * size).reshape(part, size).astype(float)


def _ratio(sums: Any, counts: Any) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(sums, counts)


def _interval(mean: Any, resampled: np.ndarray, counts: np.ndarray) -> Interval:
    rows = int(counts.sum())
    if (counts > 0).sum() < 2:
        return Interval(float(mean), math.nan, math.nan, rows)
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.nanquantile(resampled, [tail, 1.0 - tail])
    return Interval(float(mean), float(low), float(high), rows)
