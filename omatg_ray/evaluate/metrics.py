"""Metrics of tables: numbers over many matches and energies, and intervals for them.

Rows are crystals. Matches are root mean square displacements in units of (V/N)^(1/3), NaN where there is none, as
`omatg_ray.reward.matching` returns them; energies are in eV/atom. A mean over nothing is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from omatg_ray.deferred import Deferred
from omatg_ray.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
else:
    np = Deferred("numpy")

Value = TypeVar("Value")

BOOTSTRAP_ENTRIES_AT_ONCE = 1_000_000
RELAXED = "relaxed_"
"""How the names of metrics of relaxed crystals begin."""
REWARD = "reward_mean"
"""Extra metric of validations during training, where the reward is more than the energy of known compositions."""


def mean(rows: Tensor) -> float:
    """Return the mean of the rows (n,) that are not NaN."""
    return float(rows[~rows.isnan()].double().mean())


def match_rows(matches: Tensor, stol: float) -> dict[str, Tensor]:
    """Return the rows (n,) whose means are the metrics of matches.

    - match_rate: 1 for a match, else 0. Over pairs of a crystal and its reference the mean is the match rate of crystal
      structure prediction, over the best match of every reference it is the recall METRe.
    - rmse: The displacement of the matches. Read its mean beside the match rate: it ignores other rows.
    - crmse: The displacement, where no match counts as the matcher's site tolerance `stol`.
    """
    return {"match_rate": (~matches.isnan()).double(), "rmse": matches, "crmse": matches.nan_to_num(nan=stol)}


def energy_rows(energy: Tensor, reference_energy: Tensor, valid: Tensor, cap: float) -> dict[str, Tensor]:
    """Return the rows (n,) whose means are the metrics of energies: eV/atom above the reference of the same row.

    - relative_energy_mean: NaN for invalid crystals, and where an energy is not finite.
    - relative_energy_mean_capped: The same with invalid crystals at `cap` and no valid one above it. So no crystal
      gains by becoming invalid, and no sampler by making its worst crystals invalid. NaN for valid crystals whose
      energy is NaN (the potential failed), and where the reference energy is not finite.

    Args:
        energy: Energies of the generated crystals (n,).
        reference_energy: Energies of their references by the same potential (n,).
        valid: Which generated crystals are valid (n,), bool.
        cap: Energy in eV/atom, absolute and not relative to the reference: the reward's `invalid_energy`.
    """
    of_valid = (energy.double() - reference_energy.double()).where(valid, math.nan)
    capped = energy.double().clamp(max=cap).where(valid, cap) - reference_energy.double()
    rows = {"relative_energy_mean": of_valid, "relative_energy_mean_capped": capped}
    return {name: values.where(values.isfinite(), math.nan) for name, values in rows.items()}


def energy_quantiles(relative: Tensor) -> dict[str, float]:
    """Return median, 10 % and 90 % quantile of relative energies that are not NaN, with linear interpolation.

    A few very high energies move none of them.
    """
    known = _numpy(relative[~relative.isnan()])
    median, (low, high) = (
        (np.median(known), np.quantile(known, [0.1, 0.9])) if known.size else (math.nan, [math.nan] * 2)
    )
    return {
        "relative_energy_median": float(median),
        "relative_energy_q10": float(low),
        "relative_energy_q90": float(high),
    }


@dataclass(frozen=True)
class CSPMetrics:
    """Metrics of crystal structure prediction, one or more generated crystals per reference; None: not measured.

    With several samples per reference, a metric is over all of them unless stated otherwise.

    A model that generates species only knows the references' numbers of atoms. Matches with them say nothing about it
    and are not measured; relative energies are over the rows whose compositions happen to agree.

    Attributes:
        n: Number of generated crystals.
        match_rate: Share that matches its reference.
        match_any: Share of the polymorphic structures that match a polymorph. The polymorphs of a structure are the
            crystals of the data set with equally many atoms of every element in their cells, its reference among them;
            a structure is polymorphic if it has 2 to `polymorphs.MOST_POLYMORPHS`. A crystal that the data set holds
            twice counts as two polymorphs, of which only one is the lowest. None if no structure is polymorphic.
        match_lowest: Share of the polymorphic structures whose closest match among their polymorphs is the one of
            lowest energy by the potential of the evaluation. Also None without a potential.
        n_polymorphic: Number of polymorphic structures, the denominator of both shares.
        metre: METRe, share of the references that any generated crystal with the same atoms in its cell matches.
            References with more polymorphs than `polymorphs.MOST_POLYMORPHS`, not all of which are compared, are left
            out.
        coverage: Share of the references that at least one of their own samples matches. This, the next, and
            `unique_structures` are measured with several samples.
        coverage_at: Expected coverage with 1, 2, ... of the samples.
        rmse: Mean displacement of the matches, in units of (V/N)^(1/3).
        crmse: The same over all, where no match counts as the site tolerance.
        relative_energy_mean: Mean energy relative to the reference, over valid crystals, in eV/atom.
        relative_energy_median: Median of the same.
        relative_energy_q10: Energy that a tenth of the same do not exceed.
        relative_energy_q90: Energy that nine tenths of the same do not exceed.
        relative_energy_mean_capped: Mean over all, with invalid crystals and higher energies at the cap.
        invalid_share: Share that is not valid.
        plausible_share: Share that is chemically plausible (`omatg_ray.evaluate.chemistry`).
        plausible_match_rate: Share of all that is plausible and matches a plausible reference.
        plausible_rmse: Mean displacement of these.
        plausible_crmse: The same over all, where all others count as the site tolerance.
        same_composition: Number of crystals with the composition of their reference, over which relative energies are
            averaged. This and the next are measured where species are generated.
        energy_mean: Mean energy of the valid crystals, in eV/atom.
        unique_share: Share of all that is valid and equal to no earlier one (`omatg_ray.evaluate.unique`); measured
            where species are generated, and with several samples.
        unique_structures: Number of such crystals per reduced composition, averaged over compositions.
        timed_out: Number of comparisons that exceeded the time limit and count as no match.
        failed: Number of comparisons that raised an exception or whose process died, and count as no match.
        relaxed_*: The same of relaxed crystals, measured where crystals are relaxed. References stay as they are, and
            so do crystals that are invalid or on which the potential fails.
        relaxed_steps: Mean number of steps taken, over the crystals that could be relaxed.
    """

    n: int
    match_rate: float | None = None
    match_any: float | None = None
    match_lowest: float | None = None
    n_polymorphic: int | None = None
    metre: float | None = None
    coverage: float | None = None
    coverage_at: list[float] | None = None
    rmse: float | None = None
    crmse: float | None = None
    relative_energy_mean: float | None = None
    relative_energy_median: float | None = None
    relative_energy_q10: float | None = None
    relative_energy_q90: float | None = None
    relative_energy_mean_capped: float | None = None
    invalid_share: float | None = None
    plausible_share: float | None = None
    plausible_match_rate: float | None = None
    plausible_rmse: float | None = None
    plausible_crmse: float | None = None
    same_composition: int | None = None
    energy_mean: float | None = None
    unique_share: float | None = None
    unique_structures: float | None = None
    timed_out: int | None = None
    failed: int | None = None
    relaxed_relative_energy_mean_capped: float | None = None
    relaxed_relative_energy_median: float | None = None
    relaxed_match_rate: float | None = None
    relaxed_coverage: float | None = None
    relaxed_match_any: float | None = None
    relaxed_match_lowest: float | None = None
    relaxed_energy_mean: float | None = None
    relaxed_timed_out: int | None = None
    relaxed_failed: int | None = None
    relaxed_steps: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON: NaN and infinity become None.

        Metrics of relaxed crystals are left out if nothing was relaxed.
        """
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
            if self.relaxed_steps is not None or not is_relaxed(key)
        }


def is_relaxed(metric: str) -> bool:
    """Return whether a metric is one of relaxed crystals."""
    return metric.startswith(RELAXED)


def was_relaxed(metrics: Mapping[str, Any]) -> bool:
    """Return whether metrics, as from `CSPMetrics.as_dict`, have those of relaxed crystals."""
    return "relaxed_steps" in metrics


def relaxed_label(metrics: Mapping[str, Any]) -> str:
    """Return the label of the line that tables for terminals give the relaxed crystals."""
    steps = metrics["relaxed_steps"]
    return "  relaxed" if steps is None else f"  relaxed, {steps:.1f} steps"


def after_relaxation(values: Mapping[str, Value]) -> dict[str, Value]:
    """Return values by metric, measured on relaxed crystals, by their names in `CSPMetrics`, without all others."""
    known = {field.name for field in fields(CSPMetrics)}
    return {f"{RELAXED}{name}": value for name, value in values.items() if f"{RELAXED}{name}" in known}


CAPPED = (
    "Capped: before the energy of the reference is subtracted, no energy counts as more than the cap (invalid_energy, "
    "3 eV/atom unless set), and an invalid structure counts as the cap. References lie below 0, so the mean can exceed "
    "the cap."
)
"""What a capped mean is, where one is shown."""


class Column(NamedTuple):
    """Presentation of a metric: title, a shorter one for terminals, and number format."""

    title: str
    short: str
    form: str


COLUMNS = {
    "relative_energy_mean_capped": Column("relative energy, capped mean", "rel. energy, capped mean", "{:+.3f}"),
    "relative_energy_median": Column("median", "median", "{:+.3f}"),
    "invalid_share": Column("invalid", "invalid", "{:.1%}"),
    "match_rate": Column("match rate", "match rate", "{:.3f}"),
    "metre": Column("METRe", "METRe", "{:.3f}"),
    "coverage": Column("coverage", "coverage", "{:.3f}"),
    "match_any": Column("match any polymorph", "any", "{:.3f}"),
    "match_lowest": Column("match lowest polymorph", "lowest", "{:.3f}"),
    "rmse": Column("RMSE", "RMSE", "{:.3f}"),
    "crmse": Column("cRMSE", "cRMSE", "{:.3f}"),
    "relaxed_relative_energy_mean_capped": Column("relaxed: capped mean", "relaxed: capped mean", "{:+.3f}"),
    "relaxed_relative_energy_median": Column("relaxed: median", "relaxed: median", "{:+.3f}"),
    "relaxed_match_rate": Column("relaxed: match rate", "relaxed: match rate", "{:.3f}"),
    "relaxed_coverage": Column("relaxed: coverage", "relaxed: coverage", "{:.3f}"),
    "relaxed_match_any": Column("relaxed: match any polymorph", "relaxed: any", "{:.3f}"),
    "relaxed_match_lowest": Column("relaxed: match lowest polymorph", "relaxed: lowest", "{:.3f}"),
    "relaxed_energy_mean": Column("relaxed: energy mean", "relaxed: energy", "{:.3f}"),
    "relaxed_steps": Column("relaxation steps", "relaxation steps", "{:.1f}"),
    "same_composition": Column("of their reference's composition", "over", "{:.0f}"),
    "energy_mean": Column("energy mean", "energy", "{:.3f}"),
    "unique_share": Column("unique", "unique", "{:.1%}"),
    "unique_structures": Column("unique per composition", "per comp.", "{:.2f}"),
    "plausible_share": Column("chemically plausible", "plausible", "{:.1%}"),
    "plausible_match_rate": Column("match rate, plausible", "pl. match rate", "{:.3f}"),
    "plausible_rmse": Column("RMSE, plausible", "pl. RMSE", "{:.3f}"),
    "plausible_crmse": Column("cRMSE, plausible", "pl. cRMSE", "{:.3f}"),
    "n": Column("structures", "n", "{:.0f}"),
    "n_polymorphic": Column("structures with polymorphs", "polymorphic", "{:.0f}"),
    "relative_energy_q10": Column("10 % quantile", "10 %", "{:+.3f}"),
    "relative_energy_q90": Column("90 % quantile", "90 %", "{:+.3f}"),
    "relative_energy_mean": Column("mean, not capped", "mean, not capped", "{:+.3f}"),
}
"""Fields of `CSPMetrics` that tables show, in order.

Metrics that no single crystal can decide come first; the plain mean, which one with overlapping atoms can, is last.
"""
DETAILS = frozenset({"metre", "relative_energy_q10", "relative_energy_q90"})
"""Columns shown only in tables of cases."""


SHARES = frozenset(
    {
        "match_rate",
        "match_any",
        "match_lowest",
        "metre",
        "coverage",
        "invalid_share",
        "plausible_share",
        "plausible_match_rate",
        "unique_share",
        "relaxed_match_rate",
        "relaxed_match_any",
        "relaxed_match_lowest",
        "relaxed_coverage",
    }
)
"""Fields of `CSPMetrics` between 0 and 1."""


def measured_columns(rows: Iterable[Mapping[str, Any]], *, details: bool = False) -> dict[str, Column]:
    """Return the columns of a table, without those for which no row has a value.

    Args:
        rows: Rows as returned by `CSPMetrics.as_dict`.
        details: Whether to include `DETAILS`.
    """
    measured = {key for row in rows for key, value in row.items() if value is not None}
    return {key: c for key, c in COLUMNS.items() if key in measured and (details or key not in DETAILS)}


@dataclass(frozen=True)
class Interval:
    """A mean over n rows with its confidence interval; the limits are NaN if n < 2.

    Attributes:
        mean: The mean.
        low: Lower limit.
        high: Upper limit.
        n: Number of rows.
        compositions: Number of compositions that the rows belong to, where whole compositions were drawn; else 0.
    """

    mean: float
    low: float
    high: float
    n: int
    compositions: int = 0


def mean_interval(
    values: Tensor,
    *,
    method: Literal["bootstrap", "t"] = "bootstrap",
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Compute the confidence interval of a mean. Rows that are NaN are left out.

    Args:
        values: One value per row (n,); booleans give the interval of a share.
        method: "bootstrap": percentiles of the means of resampled rows; assumes nothing about the distribution, but
            needs some twenty rows. "t": Student's t, also right for a few (nearly normal) values such as one per seed.
        confidence: Probability that the interval contains the mean.
        resamples: Number of bootstrap samples.
        seed: Seed of the bootstrap; the same seed gives the same interval.

    Raises:
        DataError: `values` does not have one dimension.
    """
    if values.dim() != 1:
        raise DataError(f"an interval needs one value per row, not a tensor of shape {tuple(values.shape)}")
    sample = _numpy(values)
    sample = sample[~np.isnan(sample)]
    n = len(sample)
    mean = float(sample.mean()) if n else math.nan
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    tail = (1.0 - confidence) / 2.0
    if method == "t":
        from scipy.stats import t

        half = float(t.ppf(1.0 - tail, n - 1) * sample.std(ddof=1) / math.sqrt(n))
        return Interval(mean, mean - half, mean + half, n)
    generator = np.random.default_rng(seed)
    at_once = max(1, BOOTSTRAP_ENTRIES_AT_ONCE // n)
    parts = (min(at_once, resamples - done) for done in range(0, resamples, at_once))
    means = np.concatenate([sample[generator.integers(n, size=(part, n))].mean(axis=1) for part in parts])
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(mean, float(low), float(high), n)


def paired_interval(a: Tensor, b: Tensor, *, method: Literal["bootstrap", "t"] = "bootstrap") -> Interval:
    """Compute the confidence interval of the mean of a - b, where row i is the same in both (reference and seed).

    Pairing removes what rows have in common, such as the difficulty of a composition. Rows that are NaN on either side
    are left out, so displacements are compared where both match. `method` is that of `mean_interval`.

    Raises:
        DataError: The shapes differ, or there is more than one dimension.
    """
    if a.shape != b.shape:
        raise DataError(f"rows of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be paired")
    return mean_interval(a.double() - b.double(), method=method)


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()
