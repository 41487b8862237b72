"""Results of an evaluation of a sampler, and evaluations in progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.domain import share_inside
from omatg_ray.evaluate.backend import Measured
from omatg_ray.evaluate.compositions import ByComposition, interval_dicts
from omatg_ray.evaluate.metrics import CSPMetrics, Interval, mean
from omatg_ray.evaluate.rewards import column_of
from omatg_ray.run.progress import Progress


@dataclass(frozen=True)
class AfterRelaxation:
    """The crystals of an evaluation after relaxation, row by row, and their values, which `Evaluation` defines.

    Attributes:
        crystals: Relaxed crystals (n), float64; where invalid or failed as generated.
        match: RMSE to the reference (n,).
        polymorph: Id of the polymorph that each matches most closely (n,).
        energy: eV/atom (n,); NaN where invalid or failed.
        relative_energy: Energy relative to the reference, which is not relaxed (n,).
        relative_energy_capped: The same, capped (n,).
        steps: Steps taken (n,); NaN where there is no energy.
    """

    crystals: CrystalBatch
    match: Tensor
    polymorph: list[str | None] | None
    energy: Tensor
    relative_energy: Tensor
    relative_energy_capped: Tensor
    steps: Tensor


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a sampler on a data set, and the values behind them, row by row.

    A row is a generated crystal: one per reference, or with several samples first those of all references, then the
    second ones, and so on.

    Attributes:
        metrics: Summary.
        ids: Id of every row's reference.
        crystals: Generated crystals (n).
        valid: (n,) bool.
        match: RMSE to the reference (n,), NaN where there is no match, and everywhere if species are generated.
        polymorph: Id of the polymorph that each crystal matches most closely (n,), None where there is none
            (`CSPMetrics` defines polymorphs); None if no row has any.
        lowest_polymorph: Id of each row's polymorph of lowest energy (n,), likewise; also None without a potential.
        energy: eV/atom, NaN where invalid (n,); None without a potential.
        relative_energy: Energy relative to the reference (n,), likewise; also NaN where the compositions differ.
        relative_energy_capped: The same with invalid crystals and higher energies at the cap (n,), likewise; NaN where
            the potential failed.
        settings: Settings of the evaluation: label, steps, noise, seed, annealing, potential.
        by_composition: The same by composition, for metrics that are means.
        seconds: Duration, from its start or, if they overlap, from the end of the one before.
        generation_seconds: Seconds spent generating, summed over all processes.
        rewards: The user's own reward by name (n,): the weighted sum, its parts and their values (`evaluate.rewards`);
            empty where it was not measured.
        recalled: Whether any generated crystal matches each reference (references,), 1 or 0; NaN where it has too many
            polymorphs to tell. None where species are generated, and of given crystals.
        domain: Whether model and potential were trained on such compositions as each reference's (n,): yes, unknown, or
            no, with what of it they saw little or nothing of (`judge`).
        relaxed: The same after relaxation; None where nothing was relaxed.
        processor_seconds: Processor seconds spent generating and relaxing, summed over all processes; likewise.
    """

    metrics: CSPMetrics
    ids: list[str]
    crystals: CrystalBatch
    valid: Tensor
    match: Tensor
    polymorph: list[str | None] | None
    lowest_polymorph: list[str | None] | None
    energy: Tensor | None
    relative_energy: Tensor | None
    relative_energy_capped: Tensor | None
    settings: dict[str, Any]
    by_composition: ByComposition
    seconds: float
    generation_seconds: float
    domain: list[str]
    recalled: Tensor | None = None
    rewards: dict[str, Tensor] = field(default_factory=dict)
    relaxed: AfterRelaxation | None = None
    processor_seconds: float | None = None

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """95 % intervals of the metrics that are means, from a bootstrap over compositions."""
        return self.by_composition.intervals()

    @property
    def in_domain(self) -> float | None:
        """Share of the references that are in the domain of model and potential; None if that is unknown."""
        return share_inside(self.domain)

    def with_rows(self, rows: Mapping[str, Tensor]) -> Evaluation:
        """Return a copy with more metrics, each the mean over the rows (n,) that are not NaN."""
        means: dict[str, Any] = {name: mean(values) for name, values in rows.items()}
        return replace(self, metrics=replace(self.metrics, **means), by_composition=self.by_composition.with_rows(rows))

    def as_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON, without timings and compositions; NaN becomes None."""
        samples = {}
        if self.settings["samples"] > 1:
            rows = len(self.ids) // self.settings["samples"]
            samples = {"sample": [row // rows for row in range(len(self.ids))]}
        names, own = self.by_composition.names, {column_of(name): rows for name, rows in self.rewards.items()}
        per_structure: dict[str, Any] = {
            "id": self.ids,
            **samples,
            "formula": self.crystals.formulas(),
            "composition": [names[place] for place in self.by_composition.place] * self.settings["samples"],
            "domain": self.domain,
            "valid": self.valid.tolist(),
            "rmse": _nan_to_none(self.match),
        }
        optional = {
            "polymorph": self.polymorph,
            "lowest_polymorph": self.lowest_polymorph,
            "reference_recalled": None if self.recalled is None else self.recalled.repeat(self.settings["samples"]),
            "energy_per_atom": self.energy,
            "relative_energy": self.relative_energy,
            "relative_energy_capped": self.relative_energy_capped,
            **own,
        }
        if self.relaxed is not None:
            optional |= {
                "relaxed_rmse": self.relaxed.match,
                "relaxed_polymorph": self.relaxed.polymorph,
                "relaxed_energy_per_atom": self.relaxed.energy,
                "relaxed_relative_energy": self.relaxed.relative_energy,
                "relaxed_relative_energy_capped": self.relaxed.relative_energy_capped,
                "relaxed_steps": self.relaxed.steps,
            }
        for name, values in optional.items():
            if values is not None:
                per_structure[name] = _nan_to_none(values) if isinstance(values, Tensor) else values
        intervals = interval_dicts(self.intervals)
        rewards = {name: intervals.pop(column_of(name)) for name in self.rewards}
        return {
            **self.settings,
            "in_domain": self.in_domain,
            "metrics": self.metrics.as_dict(),
            "intervals": intervals,
            **({"rewards": rewards} if rewards else {}),
            "per_structure": per_structure,
        }


def _nan_to_none(values: Tensor) -> list[float | None]:
    return [value if value == value else None for value in values.tolist()]


class Started:
    """An evaluation in progress.

    Args:
        measured: Its blocks, in order.
        total: Number of crystals in all blocks.
        label: Title of the progress bar.
        sum_up: Combines all blocks into an evaluation.
    """

    def __init__(
        self,
        measured: Iterator[Measured],
        total: int,
        label: str,
        sum_up: Callable[[Sequence[Measured]], Evaluation],
    ) -> None:
        self._measured, self._total, self._label, self._sum_up = measured, total, label, sum_up

    def finish(self, progress: bool = False, title: str = "") -> Evaluation:
        """Wait for all blocks and return the evaluation.

        Args:
            progress: Whether to show a progress bar.
            title: Title of the bar instead of the label.
        """
        start = time.perf_counter()
        done = collect(self._measured, self._total, title or self._label or "evaluate", progress)
        return replace(self._sum_up(done), seconds=time.perf_counter() - start)


def collect(blocks: Iterator[Measured], total: int, title: str, progress: bool) -> list[Measured]:
    """Wait for blocks of `total` crystals; show a progress bar if `progress`."""
    done: list[Measured] = []
    with Progress(total, title, shown=progress) as bar:
        for measured in blocks:
            done.append(measured)
            bar.advance(steps=len(measured.crystals))
    return done


def spread_rows(total: int, limit: int | None) -> list[int]:
    """Choose at most `limit` of `total` rows, spread evenly and always the same."""
    return [row * total // limit for row in range(limit)] if limit is not None and limit < total else list(range(total))
