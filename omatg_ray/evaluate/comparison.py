"""Evaluations of several cases side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from omatg_ray.evaluate.cases import CaseResult
from omatg_ray.evaluate.compositions import interval_dicts
from omatg_ray.evaluate.metrics import Column, Interval, measured_columns
from omatg_ray.model.schedule import OWN

FORMAT: Final = "omatg_ray.comparison.1"


@dataclass(frozen=True)
class Comparison:
    """Cases on the same references, compared with the first of them.

    Attributes:
        results: Result of every case.
        differences: Metrics of each case minus those of the first; empty for the first.
    """

    results: list[CaseResult]
    differences: list[dict[str, Interval]]

    @classmethod
    def of(cls, results: Sequence[CaseResult]) -> Comparison:
        """Create a comparison from results, with the differences.

        Raises:
            DataError: The references differ.
        """
        first = results[0].by_composition
        return cls(list(results), [{}, *(result.by_composition.differences(first) for result in results[1:])])

    @property
    def columns(self) -> dict[str, Column]:
        """Columns of the metrics that any case has."""
        return measured_columns((result.metrics for result in self.results), details=True)

    def in_domain(self) -> list[str]:
        """Return for each case which share of the references is in domain, as text."""
        shares = [result.values.get("in_domain") for result in self.results]
        return ["unknown" if share is None else f"{share:.1%}" for share in shares]

    def names(self) -> dict[str, list[str]]:
        """Return what distinguishes the cases, by title: the model, and steps and schedule where they differ."""
        columns = {
            "model": [result.name for result in self.results],
            "steps": [str(result.steps) for result in self.results],
            "schedule": self._schedules(),
        }
        return {title: texts for title, texts in columns.items() if len(set(texts)) > 1 or (title == "model" and texts)}

    def _schedules(self) -> list[str]:
        """Return how every case generates; where models that keep their own schedules have different ones, which."""
        own = {place: result for place, result in enumerate(self.results) if result.way.split(", ")[0] == OWN}
        kept = [result.values.get("annealing") for result in own.values()]
        ways = [result.way for result in self.results]
        if any(schedule != kept[0] for schedule in kept[1:]):
            for place, schedule in zip(own, kept, strict=True):
                ways[place] = ways[place].replace(OWN, f"{OWN} ({(schedule or {'kind': 'none'})['kind']})", 1)
        return ways

    def times(self) -> dict[str, list[str]]:
        """Return the times of every case as text, by title."""
        spent = [result.processor_seconds_per_sample for result in self.results]
        titled = {"s/1000": [f"{result.seconds_per_1000:.1f}" for result in self.results]}
        if any(value is not None for value in spent):
            titled["CPU s/sample"] = ["-" if value is None else f"{value:.3f}" for value in spent]
        return titled

    def series(self) -> dict[str, list[CaseResult]]:
        """Group cases that differ only in their steps, in ascending order, by what distinguishes the groups."""
        of_key: dict[tuple[str, str], list[CaseResult]] = {}
        for result in self.results:
            of_key.setdefault((result.name, result.way), []).append(result)
        models, ways = (len({key[part] for key in of_key}) for part in (0, 1))
        series = {}
        for (name, way), results in of_key.items():
            parts = [*([name] if models > 1 or ways == 1 else []), *([way] if ways > 1 else [])]
            series[", ".join(parts)] = sorted(results, key=lambda result: result.steps)
        return series

    def as_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON; values per structure stay in the files of the cases."""
        cases = []
        for result, differences in zip(self.results, self.differences, strict=True):
            values = {key: value for key, value in result.values.items() if key != "per_structure"}
            spent = result.processor_seconds_per_sample
            cases.append(
                {
                    "key": result.key,
                    "model": result.name,
                    "schedule": result.way,
                    **values,
                    "seconds": result.seconds,
                    "generation_seconds": result.generation_seconds,
                    "generation_seconds_per_1000": result.seconds_per_1000,
                    **({} if spent is None else {"processor_seconds_per_sample": spent}),
                    "less_first": interval_dicts(differences),
                }
            )
        return {"format": FORMAT, "cases": cases}
