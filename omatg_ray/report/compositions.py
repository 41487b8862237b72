"""Values per composition, for several cases, as one Parquet file."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omatg_ray.evaluate.cases import CaseResult
from omatg_ray.run.atomic import write_bytes


def write_compositions(path: Path, results: Sequence[CaseResult]) -> None:
    """Write one row per case and composition as Parquet; values that were not measured are null.

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
        compositions = result.by_composition
        size = len(compositions.names)
        columns["model"] += [result.name] * size
        columns["steps"] += [result.steps] * size
        columns["schedule"] += [result.way] * size
        columns["composition"] += compositions.names
        columns["references"] += compositions.references
        columns["samples"] += [result.values["samples"]] * size
        columns["relative_energy_median"] += [None if math.isnan(value) else value for value in compositions.medians]
        for name in schema.names[6:]:
            if name != "relative_energy_median":
                columns[name] += compositions.means(name)
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns, schema=schema), buffer)
    write_bytes(path, buffer.getvalue())
