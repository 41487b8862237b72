"""Values per composition, for several cases, as one Parquet file."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

from omatg_ray.evaluate.cases import CaseResult
from omatg_ray.run.atomic import write_bytes

METRICS = (
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


def write_compositions(path: Path, results: Sequence[CaseResult]) -> None:
    """Write one row per case and composition as Parquet; values that were not measured are null.

    Energies are in eV/atom, RMSE in units of (V/N)^(1/3); `samples` is the number of crystals of each reference.
    """
    import pyarrow as pa
    from pyarrow import parquet

    types = [
        ("model", pa.string()),
        ("steps", pa.int32()),
        ("schedule", pa.string()),
        ("composition", pa.string()),
        ("references", pa.int32()),
        ("samples", pa.int32()),
        *((name, pa.float64()) for name in METRICS),
    ]
    schema = pa.schema(types)
    rows = []
    for result in results:
        found = result.by_composition
        medians = [None if math.isnan(value) else value for value in found.medians]
        metrics = [medians if name == "relative_energy_median" else found.means(name) for name in METRICS]
        for composition, references, *own in zip(found.names, found.references, *metrics, strict=True):
            about = (result.name, result.steps, result.way, composition, references, result.values["samples"])
            rows.append(dict(zip(schema.names, (*about, *own), strict=True)))
    buffer = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), buffer)
    write_bytes(path, buffer.getvalue())
