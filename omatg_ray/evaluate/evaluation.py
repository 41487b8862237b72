"""What an evaluation of a sampler found, and one that has begun."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.evaluate.backend import Measured
from omatg_ray.evaluate.compositions import ByComposition, interval_dict
from omatg_ray.evaluate.metrics import CSPMetrics, Interval
from omatg_ray.run.progress import Progress


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a sampler on a data set, and what they were computed from, row by row.

    A row is a generated crystal: one per reference, or first samples of all references, then second ones, and so on.

    Attributes:
        metrics: Summary.
        ids: Identity of every row's reference.
        crystals: Generated crystals (n).
        valid: (n,) bool.
        match: RMSE to the reference, NaN where there is no match (n,), and everywhere where species are generated.
        polymorph: Id of the polymorph that each matches most closely (n,), None where there is none (`CSPMetrics` says
            what a polymorph is); None if no row has any.
        lowest_polymorph: Id of the polymorph of lowest energy of each (n,), likewise; None without a potential too.
        energy: eV/atom, NaN where invalid (n,); None without a potential.
        relative_energy: Energy over that of the reference (n,), likewise; NaN too where the compositions differ.
        relative_energy_capped: The same with invalid crystals and higher energies at the cap (n,), likewise; NaN where
            the potential failed.
        settings: Label, steps, noise, seed, annealing, potential: what was asked for.
        by_composition: The same composition by composition, as far as metrics are means.
        seconds: From its start, or the end of the one before if they overlap, to its end.
        generation_seconds: That generating took, added up over all who generated.
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

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """95 % intervals of the metrics that are means, from a bootstrap over compositions."""
        return self.by_composition.intervals()

    def with_rows(self, rows: Mapping[str, Tensor]) -> Evaluation:
        """With more metrics, each the mean over the rows that have a value (n,), NaN elsewhere."""
        means: dict[str, Any] = {name: float(values[~values.isnan()].mean()) for name, values in rows.items()}
        return replace(self, metrics=replace(self.metrics, **means), by_composition=self.by_composition.with_rows(rows))

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON, timings and compositions left out; NaN becomes None."""
        samples = {}
        if self.settings["samples"] > 1:
            rows = len(self.ids) // self.settings["samples"]
            samples = {"sample": [row // rows for row in range(len(self.ids))]}
        per_structure: dict[str, Any] = {
            "id": self.ids,
            **samples,
            "formula": self.crystals.formulas(),
            "valid": self.valid.tolist(),
            "rmse": _plain(self.match),
        }
        if self.polymorph is not None:
            per_structure["polymorph"] = self.polymorph
        if self.lowest_polymorph is not None:
            per_structure["lowest_polymorph"] = self.lowest_polymorph
        for name, values in (
            ("energy_per_atom", self.energy),
            ("relative_energy", self.relative_energy),
            ("relative_energy_capped", self.relative_energy_capped),
        ):
            if values is not None:
                per_structure[name] = _plain(values)
        intervals = {name: interval_dict(interval) for name, interval in self.intervals.items()}
        return {
            **self.settings,
            "metrics": self.metrics.as_dict(),
            "intervals": intervals,
            "per_structure": per_structure,
        }


def _plain(values: Tensor) -> list[float | None]:
    return [value if value == value else None for value in values.tolist()]


class Started:
    """An evaluation that has begun.

    Args:
        measured: Its blocks, in order.
        total: Crystals in all of them.
        label: What the progress bar calls it.
        sum_up: Makes an evaluation of all blocks.
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
        """Waits for its blocks.

        Args:
            progress: Show a progress bar.
            title: Of the bar, in place of the label.
        """
        begun = time.perf_counter()
        done: list[Measured] = []
        with Progress(self._total, title or self._label or "evaluate", shown=progress) as bar:
            for measured in self._measured:
                done.append(measured)
                bar.advance(steps=len(measured.crystals))
        return replace(self._sum_up(done), seconds=time.perf_counter() - begun)


def spread_rows(total: int, limit: int | None) -> list[int]:
    """At most `limit` rows of `total`, spread evenly, always the same ones."""
    return [row * total // limit for row in range(limit)] if limit is not None and limit < total else list(range(total))
