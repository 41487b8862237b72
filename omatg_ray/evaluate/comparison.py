"""Evaluations of several cases side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from omatg_ray.evaluate.cases import CaseResult
from omatg_ray.evaluate.compositions import interval_dict
from omatg_ray.evaluate.metrics import Column, Interval, measured_columns

FORMAT: Final = "omatg_ray.comparison.1"


@dataclass(frozen=True)
class Comparison:
    """Cases on the same references, of which the first is what the others are compared with.

    Attributes:
        results: Of every case.
        differences: By how much the metrics of each are above those of the first; nothing for the first.
    """

    results: list[CaseResult]
    differences: list[dict[str, Interval]]

    @classmethod
    def of(cls, results: Sequence[CaseResult]) -> Comparison:
        """With the differences.

        Raises:
            DataError: The references differ.
        """
        first = results[0].by_composition
        return cls(list(results), [{}, *(one.by_composition.differences(first) for one in results[1:])])

    @property
    def columns(self) -> dict[str, Column]:
        """The metrics that any case has."""
        return measured_columns((one.metrics for one in self.results), details=True)

    def names(self) -> dict[str, list[str]]:
        """What tells the cases apart, by title: model, steps and schedule, as far as they differ."""
        found = {
            "model": [one.name for one in self.results],
            "steps": [str(one.steps) for one in self.results],
            "schedule": [one.way for one in self.results],
        }
        return {title: texts for title, texts in found.items() if len(set(texts)) > 1 or (title == "model" and texts)}

    def series(self) -> dict[str, list[CaseResult]]:
        """Cases that differ in their steps alone, in ascending order, by what the others are told from them by."""
        of_key: dict[tuple[str, str], list[CaseResult]] = {}
        for one in self.results:
            of_key.setdefault((one.name, one.way), []).append(one)
        models, ways = (len({key[place] for key in of_key}) for place in (0, 1))
        named = {}
        for (name, way), found in of_key.items():
            parts = [*([name] if models > 1 or ways == 1 else []), *([way] if ways > 1 else [])]
            named[", ".join(parts)] = sorted(found, key=lambda one: one.steps)
        return named

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON; the values of every structure stay in the files of the cases."""
        cases = []
        for result, differences in zip(self.results, self.differences, strict=True):
            values = {key: value for key, value in result.values.items() if key != "per_structure"}
            cases.append(
                {
                    "key": result.key,
                    "model": result.name,
                    "schedule": result.way,
                    **values,
                    "seconds": result.seconds,
                    "generation_seconds": result.generation_seconds,
                    "generation_seconds_per_1000": result.seconds_per_1000,
                    "less_first": {name: interval_dict(found) for name, found in differences.items()},
                }
            )
        return {"format": FORMAT, "cases": cases}
