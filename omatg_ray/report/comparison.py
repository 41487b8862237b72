"""Report of cases side by side: table with intervals, metrics against steps, histograms, crystals."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.evaluate.cases import CaseResult, crystals_of_case
from omatg_ray.evaluate.comparison import Comparison
from omatg_ray.evaluate.compositions import interval_dicts
from omatg_ray.evaluate.metrics import CAPPED, SHARES, is_relaxed, was_relaxed
from omatg_ray.evaluate.verdict import RULE
from omatg_ray.report.drawing import read_crystals
from omatg_ray.report.page import (
    ABSURD,
    ABSURD_NOTE,
    card,
    crystal_card,
    grid,
    page,
    soft,
    spread,
    table,
    with_interval,
    with_warning,
)
from omatg_ray.report.plots import COLOURS, NORMAL, WIDE, banded_lines, energy_histogram, rmse_histogram
from omatg_ray.report.rewards import rewards_of
from omatg_ray.run.atomic import write_bytes, write_json, write_text
from omatg_ray.run.text import counted

JSON, PARQUET, REPORT = "evaluation.json", "compositions.parquet", "report.html"
N_DRAWN = 3
"""Number of cases whose crystals are drawn."""
N_OUTLINES = len(COLOURS)
"""Most histograms in one picture."""
NOTE = (
    "In brackets: 95 % intervals, from a bootstrap over whole compositions, since crystals of one composition are not "
    "independent. Energies in eV/atom relative to the reference of the same row, by the same potential. "
    f"{CAPPED} RMSE over matched structures; cRMSE "
    "counts an unmatched one as the matcher's tolerance. METRe: share of references matched by any generated structure "
    "of their composition. In domain: share of references like those that the model and the potential were trained on. "
    "s/1000: seconds for one process or actor to generate 1,000 structures, without matching "
    "and scoring them."
)
RELAXED_NOTE = (
    "Relaxed: the same after every structure was relaxed with the potential; references and invalid structures stay as "
    "they are. A method that only relaxes is ahead before the relaxation and not after it. CPU s/sample: processor "
    "seconds to generate and relax a structure, all threads together."
)


BY_COMPOSITION = (
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
"""Metrics of `compositions.parquet`, beside those of relaxed crystals."""
AGAINST_STEPS = (
    ("crmse", "cRMSE", "cRMSE / (V/N)$^{1/3}$"),
    ("match_rate", "Match rate", "match rate"),
    ("rmse", "RMSE of matches", "RMSE / (V/N)$^{1/3}$"),
    ("metre", "METRe", "METRe"),
    ("coverage", "Coverage", "coverage"),
    ("relative_energy_mean_capped", "Relative energy, capped mean", "relative energy (eV/atom)"),
    (
        "relaxed_relative_energy_mean_capped",
        "Relative energy after relaxation, capped mean",
        "relative energy (eV/atom)",
    ),
    ("energy_mean", "Energy, mean", "energy (eV/atom)"),
    ("invalid_share", "Invalid structures", "share"),
    ("unique_structures", "Unique structures per composition", "structures"),
)
"""Metrics drawn against the steps, with titles and labels of the vertical axes."""


def write_comparison(
    folder: Path, comparison: Comparison, references: CrystalDataset, about: Mapping[str, Any] | None = None
) -> Path:
    """Write `evaluation.json`, `compositions.parquet` and `report.html` into the folder of `evaluate_cases`.

    Args:
        folder: The folder that `evaluate_cases` was given.
        comparison: The cases.
        references: The references, row by row, drawn in the report beside the generated crystals.
        about: Further facts about all cases for `evaluation.json` and the report, e.g. the data.

    Returns:
        Path of the report.
    """
    facts = dict(about or {})
    write_json(folder / JSON, {**comparison.as_dict(), "about": facts})
    _write_compositions(folder / PARQUET, comparison.results)
    results = comparison.results
    first = results[0]
    n, samples = int(first.metrics["n"]), int(first.values["samples"])
    parts = [
        counted(len(results), "case"),
        f"{counted(n // samples, 'reference')} of {counted(len(first.by_composition.names), 'composition')}",
        *([f"{samples} samples of each"] if samples > 1 else []),
        *(f"{key}: {value}" for key, value in facts.items() if value is not None),
    ]
    series = {
        name: [
            (one.steps, {key: one.interval(key) for key, value in one.metrics.items() if value is not None})
            for one in group
        ]
        for name, group in comparison.series().items()
    }
    sections = [
        ("Cases", _table(comparison)),
        (f"Difference from the first case ({escape(first.label)})", _differences(comparison)),
        ("Your reward", _rewards(comparison)),
        ("Against the number of grid points", against_steps(series)),
        ("Coverage", _coverage(comparison)),
        ("Relative energies", _histograms(comparison, "relative_energy")),
        *(
            [("Relative energies after relaxation", _histograms(comparison, "relaxed_relative_energy"))]
            if any(was_relaxed(result.metrics) for result in results)
            else []
        ),
        ("RMSE of matches", _histograms(comparison, "rmse")),
        ("Crystals", _crystals(comparison, references, folder)),
    ]
    write_text(folder / REPORT, page(folder.resolve().name, soft(", ".join(parts)), sections))
    return folder / REPORT


def _write_compositions(path: Path, results: Sequence[CaseResult]) -> None:
    """Write one row per case and composition as Parquet; values that were not measured are null.

    Energies are in eV/atom, RMSE in units of (V/N)^(1/3); `samples` is the number of crystals of each reference.
    """
    import pyarrow as pa
    from pyarrow import parquet

    relaxed = (name for result in results for name in result.by_composition.totals if is_relaxed(name))
    names = dict.fromkeys([*BY_COMPOSITION, *relaxed])
    types = [
        ("model", pa.string()),
        ("steps", pa.int32()),
        ("schedule", pa.string()),
        ("composition", pa.string()),
        ("references", pa.int32()),
        ("samples", pa.int32()),
        *((name, pa.float64()) for name in names),
    ]
    schema = pa.schema(types)
    rows = []
    for result in results:
        found = result.by_composition
        medians = [None if math.isnan(value) else value for value in found.medians]
        metrics = [medians if name == "relative_energy_median" else found.means(name) for name in names]
        for composition, references, *own in zip(found.names, found.references, *metrics, strict=True):
            about = (result.name, result.steps, result.way, composition, references, result.values["samples"])
            rows.append(dict(zip(schema.names, (*about, *own), strict=True)))
    buffer = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), buffer)
    write_bytes(path, buffer.getvalue())


def _table(comparison: Comparison) -> str:
    columns, names = comparison.columns, comparison.names()
    counts = {key: {result.metrics[key] for result in comparison.results} for key in ("n", "n_polymorphic")}
    shown = {key: column for key, column in columns.items() if len(counts.get(key, "ab")) > 1}
    times = comparison.times()
    head = [*names, *(column.title for column in shown.values()), "in domain", *times]
    rows = []
    for row, (result, inside) in enumerate(zip(comparison.results, comparison.in_domain(), strict=True)):
        own_names, spent = ([texts[row] for texts in found.values()] for found in (names, times))
        cells = [with_interval(result.interval(key), column.form) for key, column in shown.items()]
        rows.append([*own_names, *cells, inside, *spent])
    relaxed = any(was_relaxed(result.metrics) for result in comparison.results)
    notes = [*same_crystals(comparison.results), NOTE, *([RELAXED_NOTE] if relaxed else [])]
    return table(head, rows, soft(" ".join(notes)), names=len(names))


def same_crystals(results: Sequence[CaseResult]) -> list[str]:
    """Say which cases gave the same crystals as an earlier one, in a sentence each."""
    sentences = []
    for index, result in enumerate(results):
        for earlier in results[:index]:
            if result.values["per_structure"] == earlier.values["per_structure"]:
                sentences.append(
                    f"{result.label} gave the same crystals as {earlier.label}: the best checkpoint of a run that did "
                    "not improve is its base."
                )
                break
    return sentences


def _differences(comparison: Comparison) -> str:
    if len(comparison.results) < 2:
        return ""
    columns = {
        key: column for key, column in comparison.columns.items() if any(key in row for row in comparison.differences)
    }
    names = comparison.names()
    rows = []
    for differences, *own_names in list(zip(comparison.differences, *names.values(), strict=True))[1:]:
        changes = interval_dicts(differences)
        forms = {key: column.form.replace("{:.", "{:+.") for key, column in columns.items()}
        rows.append([*own_names, *(with_interval(changes.get(key, {}), form, " *") for key, form in forms.items())])
    note = (
        "Paired: both draw the same compositions, and x_0 and noise of a row are the same in all cases. "
        f"{RULE} RMSE is over what each case matches; a case that matches more may match "
        "harder structures, so compare the cRMSE."
    )
    return table([*names, *(column.title for column in columns.values())], rows, soft(note), names=len(names))


def _rewards(comparison: Comparison) -> str:
    results = comparison.results
    return rewards_of([one.label for one in results], [one.values for one in results], comparison.differences)


def against_steps(series: Mapping[str, Sequence[tuple[int, Mapping[str, Any]]]]) -> str:
    """Draw metrics against the number of grid points.

    Args:
        series: By name, numbers of grid points in ascending order, each with intervals by metric (`interval_dict`).
    """
    cards = []
    for metric, title, ylabel in AGAINST_STEPS:
        lines = {
            name: [(steps, intervals[metric]) for steps, intervals in points if metric in intervals]
            for name, points in series.items()
        }
        lines = {name: points for name, points in lines.items() if points}
        percent, share = metric == "invalid_share", metric in SHARES
        figure = banded_lines(lines, "grid points", ylabel, percent, log=True, share=share)
        cards.append(card(title, figure, CAPPED if metric.endswith("relative_energy_mean_capped") else ""))
    return grid(cards)


def _coverage(comparison: Comparison) -> str:
    lines = {}
    for result in comparison.results:
        values, intervals = result.metrics.get("coverage_at") or [], result.values["intervals"]
        names = [f"coverage_at_{k}" for k in range(1, len(values))] + ["coverage"]
        if values:
            lines[result.label] = [
                (k, {**(intervals.get(name) or {}), "mean": value})
                for k, (name, value) in enumerate(zip(names, values, strict=True), start=1)
            ]
    drawn = dict(list(lines.items())[:N_OUTLINES])
    figure = banded_lines(drawn, "samples of a reference", "share of references matched", size=WIDE, share=True)
    left_out = "" if len(drawn) == len(lines) else f" The first {len(drawn)} cases."
    caption = f"Expected share of references matched by at least one of k of their samples.{left_out}"
    return card("", figure, caption)


def _histograms(comparison: Comparison, column: str) -> str:
    """Draw one picture per number of steps, or a single one if the cases differ in nothing else."""
    series = comparison.series()
    groups: dict[str, dict[str, CaseResult]] = {}
    for name, cases in series.items():
        for case in cases:
            group, label = (f"{case.steps} grid points", name) if len(series) > 1 else ("", f"{case.steps} points")
            groups.setdefault(group, {})[label] = case
    cards, size = [], NORMAL if len(groups) > 1 else WIDE
    for group, results in sorted(groups.items(), key=lambda item: min(case.steps for case in item[1].values())):
        values = {
            name: rows
            for name, case in list(results.items())[:N_OUTLINES]
            if (rows := case.values["per_structure"].get(column)) is not None
        }
        energies = column != "rmse"
        figure = energy_histogram(values, ABSURD, size) if energies else rmse_histogram(values, size)
        left_out = len(results) - len(values)
        cards.append(card(group, figure, f"{counted(left_out, 'case')} not drawn." if left_out else ""))
    return grid(cards)


def _crystals(comparison: Comparison, references: CrystalDataset, folder: Path) -> str:
    from pymatgen.io.ase import AseAtomsAdaptor

    results = comparison.results
    chosen = [results[index] for index in spread(range(len(results)), N_DRAWN)]
    found = [(result, read_crystals(crystals_of_case(folder, result.key))) for result in chosen]
    columns = [(result, crystals) for result, crystals in found if len(crystals) >= len(references)]
    if not columns:
        return ""
    names = comparison.names()
    titles = {
        result.key: "\n".join(
            f"{texts[index]} points" if title == "steps" else texts[index]
            for title, texts in names.items()
            if title != "model" or len(set(texts)) > 1 or len(names) == 1
        )
        for index, result in enumerate(results)
    }
    formulas, cards = references.crystals.formulas(), []
    known = "reference" + "\n" * max(text.count("\n") for text in titles.values())
    for row in spread(formulas):
        (structure,) = references.crystals.select([row]).to_structures()
        reference = (AseAtomsAdaptor.get_atoms(structure), "\n")
        drawn = {titles[result.key]: (crystals[row], _caption(result, row)) for result, crystals in columns}
        cards.append(crystal_card(formulas[row], {known: reference, **drawn}, escape(references.ids[row])))
    note = (
        "References are evenly spaced, not chosen by result; the first sample of each. Energies in eV/atom relative to "
        f"the reference. {ABSURD_NOTE}"
    )
    return grid(cards, soft(note))


def _caption(result: CaseResult, row: int) -> str:
    rows = result.values["per_structure"]
    if not rows["valid"][row]:
        return "invalid\n"
    energy = rows.get("relative_energy")
    text = "" if energy is None or energy[row] is None else with_warning(energy[row], "{:+.3f}")
    return f"{text}\n" + ("no match" if rows["rmse"][row] is None else f"RMSE {rows['rmse'][row]:.3f}")
