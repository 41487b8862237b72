"""Metrics of an evaluation by composition, and their intervals from a bootstrap over compositions.

Crystals of one composition are not independent: a sampler that knows it gets all its polymorphs and samples right. So
whole compositions are drawn, with replacement, and every metric is computed from each draw.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from omatg_ray.errors import DataError
from omatg_ray.evaluate.metrics import BOOTSTRAP_ENTRIES_AT_ONCE, Interval, is_relaxed
from omatg_ray.evaluate.rewards import is_column

CONFIDENCE = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True)
class Totals:
    """Components of a mean: its sum and its number of rows in every composition, float64 (G,) each."""

    sums: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class ByComposition:
    """Metrics that are means over rows, as totals in every composition.

    Attributes:
        names: Reduced formulas (G,).
        place: Composition of every reference, as an index into `names` (n,).
        totals: Totals by metric.
        medians: Median relative energy of the valid crystals of every composition (G,), NaN where there are none.
    """

    names: list[str]
    place: list[int]
    totals: dict[str, Totals]
    medians: list[float]

    @classmethod
    def of(cls, compositions: Sequence[str]) -> Self:
        """Create an instance without metrics, for references with these compositions."""
        index = {name: position for position, name in enumerate(dict.fromkeys(compositions))}
        return cls(list(index), [index[name] for name in compositions], {}, [math.nan] * len(index))

    @cached_property
    def references(self) -> list[int]:
        """Number of references of every composition (G,)."""
        return np.bincount(self.place, minlength=len(self.names)).tolist()

    def with_rows(self, rows: Mapping[str, Tensor]) -> Self:
        """Return a copy with more metrics.

        Args:
            rows: By metric, the values it is the mean of: one per reference, or several samples one after the other
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

    def with_sums(self, name: str, values: Tensor) -> Self:
        """Return a copy with a metric of one value per composition: the sum of values, given as for `with_rows`."""
        sums = self.with_rows({name: values}).totals[name].sums
        return replace(self, totals=self.totals | {name: Totals(sums, np.ones(len(sums)))})

    def with_medians(self, relative: Tensor) -> Self:
        """Return a copy with the medians of relative energies, given in rows as for `with_rows`."""
        numbers = relative.detach().double().cpu().numpy()
        groups = np.tile(self.place, len(numbers) // max(len(self.place), 1))
        there = np.isfinite(numbers)
        by_group = {
            int(group): float(np.median(numbers[there & (groups == group)])) for group in np.unique(groups[there])
        }
        return replace(self, medians=[by_group.get(group, math.nan) for group in range(len(self.names))])

    def means(self, metric: str) -> list[float | None]:
        """Return a metric in every composition (G,); None where it has no rows."""
        totals = self.totals.get(metric)
        if totals is None:
            return [None] * len(self.names)
        pairs = zip(totals.sums.tolist(), totals.counts.tolist(), strict=True)
        return [total / count if count else None for total, count in pairs]

    def intervals(self, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Interval]:
        """Return the 95 % bootstrap interval of every metric."""
        intervals: dict[str, Interval] = {}
        for names in _apart(self.totals):
            sums, counts = _stack(self.totals, names)
            drawn = [_ratio(times @ sums, times @ counts) for times in _draws(len(sums), resamples, seed)]
            means = [_ratio(column.sum(), rows.sum()) for column, rows in zip(sums.T, counts.T, strict=True)]
            intervals |= _intervals(names, means, drawn, counts)
        return intervals

    def differences(self, first: Self) -> dict[str, Interval]:
        """Subtract the metrics of a first evaluation of the same references from these, with 95 % intervals.

        The same compositions are drawn for both, so their difficulty cancels.

        Raises:
            DataError: The compositions differ.
        """
        if self.names != first.names or self.place != first.place:
            raise DataError("evaluations of different references cannot be paired")
        intervals: dict[str, Interval] = {}
        for names in _apart(name for name in self.totals if name in first.totals):
            (sums, counts), (old_sums, old_counts) = _stack(self.totals, names), _stack(first.totals, names)
            drawn = [
                _ratio(times @ sums, times @ counts) - _ratio(times @ old_sums, times @ old_counts)
                for times in _draws(len(sums), RESAMPLES, 0)
            ]
            means = _ratio(sums.sum(0), counts.sum(0)) - _ratio(old_sums.sum(0), old_counts.sum(0))
            intervals |= _intervals(names, means, drawn, np.minimum(counts, old_counts))
        return intervals

    def as_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        totals = {
            name: {"sums": total.sums.tolist(), "counts": total.counts.astype(int).tolist()}
            for name, total in self.totals.items()
        }
        medians = [None if math.isnan(value) else value for value in self.medians]
        return {"names": self.names, "place": self.place, "totals": totals, "relative_energy_median": medians}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `as_dict` returned.

        Raises:
            KeyError, TypeError, ValueError: The values have another form.
        """
        size = len(values["names"])
        totals = {
            str(name): Totals(np.array(total["sums"], dtype=float), np.array(total["counts"], dtype=float))
            for name, total in values["totals"].items()
        }
        if any(total.sums.shape != (size,) or total.counts.shape != (size,) for total in totals.values()):
            raise ValueError(f"totals do not fit {size} compositions")
        medians = [math.nan if value is None else float(value) for value in values["relative_energy_median"]]
        return cls(list(values["names"]), [int(position) for position in values["place"]], totals, medians)


def interval_dict(interval: Interval) -> dict[str, float | int | None]:
    """Return an interval as a dictionary for JSON; unknown limits are None."""
    return {key: value if math.isfinite(value) else None for key, value in asdict(interval).items()}


def interval_dicts(intervals: Mapping[str, Interval]) -> dict[str, dict[str, float | int | None]]:
    """Return the intervals of metrics as dictionaries for JSON."""
    return {name: interval_dict(interval) for name, interval in intervals.items()}


def covered(hits: Tensor, samples: int, k: int) -> Tensor:
    """Return the probability that k of a reference's samples, drawn without replacement, include a match (n,).

    The unbiased estimator of coverage at k (pass@k; Chen et al., arXiv 2107.03374): 1 − C(K − c, k) / C(K, k).

    Args:
        hits: Number of samples that match each reference (n,), 0 to `samples`.
        samples: Number of samples of every reference, K.
        k: 1 to K.
    """
    values = [1.0 - math.comb(samples - c, k) / math.comb(samples, k) for c in range(samples + 1)]
    return torch.tensor(values, dtype=torch.float64)[hits]


def _stack(totals: Mapping[str, Totals], names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Stack sums and counts (G, metrics)."""
    columns = [totals[name] for name in names]
    return np.stack([each.sums for each in columns], axis=1), np.stack([each.counts for each in columns], axis=1)


def _apart(metrics: Iterable[str]) -> list[list[str]]:
    """Split metrics into those of every evaluation, of a reward, and of relaxed crystals, without empty lists.

    How many columns are multiplied together may decide the last bits of each, and a reward or a relaxation must change
    no other metric.
    """
    parts: tuple[list[str], list[str], list[str]] = ([], [], [])
    for name in metrics:
        parts[1 if is_column(name) else 2 if is_relaxed(name) else 0].append(name)
    return [part for part in parts if part]


def _draws(size: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Draw how often each of `size` compositions occurs in every resample, in parts (part, size)."""
    generator = np.random.default_rng(seed)
    at_once = max(1, BOOTSTRAP_ENTRIES_AT_ONCE // max(size, 1))
    for done in range(0, resamples, at_once):
        part = min(at_once, resamples - done)
        drawn = generator.integers(size, size=(part, size)) + size * np.arange(part)[:, None]
        yield np.bincount(drawn.ravel(), minlength=part * size).reshape(part, size).astype(float)


def _ratio(sums: Any, counts: Any) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(sums, counts)


def _intervals(
    names: Sequence[str], means: Sequence[Any], drawn: Sequence[np.ndarray], counts: np.ndarray
) -> dict[str, Interval]:
    """Return the intervals of metrics: from their means, those of all resamples, and counts (G, metrics)."""
    resampled, tail = np.concatenate(drawn), (1.0 - CONFIDENCE) / 2.0
    intervals = {}
    for name, mean, values, rows in zip(names, means, resampled.T, counts.T, strict=True):
        known = int((rows > 0).sum())
        low, high = np.nanquantile(values, [tail, 1.0 - tail]) if known > 1 else (math.nan, math.nan)
        intervals[name] = Interval(float(mean), float(low), float(high), int(rows.sum()), known)
    return intervals
