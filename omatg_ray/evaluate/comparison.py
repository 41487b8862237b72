"""Evaluations of several cases side by side: a table for terminals, JSON, and a Parquet file of every composition."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.evaluate.cases import CaseFolder, CaseResult
from omatg_ray.evaluate.compositions import interval_dict
from omatg_ray.evaluate.metrics import Column, Interval, measured_columns
from omatg_ray.evaluate.text import aligned
from omatg_ray.run.atomic import write_bytes, write_json, write_text

FORMAT: Final = "omatg_ray.comparison.1"
JSON, PARQUET, REPORT = "evaluation.json", "compositions.parquet", "report.html"
IN_TERMINALS = {
    "relative_energy_mean_capped": "E capped",
    "relative_energy_median": "E median",
    "invalid_share": "invalid",
    "match_rate": "match rate",
    "metre": "METRe",
    "coverage": "coverage",
    "rmse": "RMSE",
    "crmse": "cRMSE",
    "energy_mean": "energy",
    "unique_structures": "unique",
}
"""Metrics that tables of cases show in terminals, in order, and their titles there."""
LEGEND = """\
E: eV/atom over the reference; ±: half of the 95 % interval (bootstrap over compositions); unique: structures per
composition; s/1000: seconds in which one process or actor generates 1,000 crystals"""


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


def comparison_table(comparison: Comparison) -> str:
    """One line for each case, with half the width of 95 % intervals behind ±, and how long generating takes."""
    measured = comparison.columns
    columns = {key: measured[key] for key in IN_TERMINALS if key in measured}
    names = comparison.names()
    lines = [[*names, *(IN_TERMINALS[key] for key in columns), "n", "s/1000"]]
    for row, result in enumerate(comparison.results):
        cells = [_short(result, key, column) for key, column in columns.items()]
        lines.append(
            [
                *(texts[row] for texts in names.values()),
                *cells,
                str(result.metrics["n"]),
                f"{result.seconds_per_1000:.1f}",
            ]
        )
    left = [place for place, name in enumerate(names) if name != "steps"]
    return f"{aligned(lines, left)}\n{LEGEND}"


def _short(result: CaseResult, key: str, column: Column) -> str:
    value = result.metrics.get(key)
    if value is None:
        return "-"
    # The value itself may be no mean (a median), and has an interval all the same.
    return plus_minus({**(result.values["intervals"].get(key) or {}), "mean": value}, column.form)


def plus_minus(interval: Mapping[str, Any], form: str) -> str:
    """A mean with half the width of its interval, as `interval_dict` gives both, for terminals."""
    text, low, high = form.format(interval["mean"]), interval.get("low"), interval.get("high")
    return text if low is None or high is None else f"{text} ±{form.format((high - low) / 2).lstrip('+')}"


def write_compositions(path: Path, results: Sequence[CaseResult]) -> None:
    """One row for each case and composition, as Parquet; what was not measured is null.

    Energies are in eV/atom, RMSE in units of (V/N)^(1/3); `samples` is the number of crystals of each reference.
    """
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema(
        [
            ("model", pa.string()),
            ("steps", pa.int32()),
            ("schedule", pa.string()),
            ("composition", pa.string()),
            ("references", pa.int32()),
            ("samples", pa.int32()),
            *(
                (name, pa.float64())
                for name in (
                    "match_rate",
                    "rmse",
                    "crmse",
                    "metre",
                    "coverage",
                    "relative_energy_mean",
                    "relative_energy_mean_capped",
                    "relative_energy_median",
                    "invalid_share",
                    "unique_structures",
                )
            ),
        ]
    )
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for result in results:
        found = result.by_composition
        size = len(found.names)
        columns["model"] += [result.name] * size
        columns["steps"] += [result.steps] * size
        columns["schedule"] += [result.way] * size
        columns["composition"] += found.names
        columns["references"] += found.references
        columns["samples"] += [result.values["samples"]] * size
        columns["relative_energy_median"] += [None if math.isnan(value) else value for value in found.medians]
        for name in schema.names[6:]:
            if name != "relative_energy_median":
                columns[name] += found.means(name)
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns, schema=schema), buffer)
    write_bytes(path, buffer.getvalue())


def write_comparison(
    folder: Path, comparison: Comparison, references: CrystalDataset, about: Mapping[str, Any] | None = None
) -> Path:
    """Writes `evaluation.json`, `compositions.parquet` and `report.html` of cases that `evaluate_cases` kept there.

    Args:
        folder: The folder that `evaluate_cases` was given.
        comparison: The cases.
        references: The references, row by row, which the report draws beside what was generated.
        about: What else to say of all of them in `evaluation.json` and the report, e.g. the data.

    Returns:
        The path of the report.
    """
    from omatg_ray.evaluate.comparison_report import comparison_page

    about = about or {}
    write_json(folder / JSON, {**comparison.as_dict(), "about": dict(about)})
    write_compositions(folder / PARQUET, comparison.results)
    text = comparison_page(folder.resolve().name, comparison, references, CaseFolder(folder), about)
    write_text(folder / REPORT, text)
    return folder / REPORT
