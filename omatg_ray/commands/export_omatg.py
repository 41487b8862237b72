"""`omatg-ray export-omatg`: conversion of a model to a checkpoint and a configuration of OMatG."""

from __future__ import annotations

from pathlib import Path

from omatg_ray.commands.import_omatg import refuse_existing
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.omatg.export import export_omatg
from omatg_ray.run.atomic import replace_folder
from omatg_ray.run.location import Location


def export_model(model: Location, out: Path, steps: int | None = None, data: str | None = None) -> list[str]:
    """Write checkpoint.ckpt and train.yaml into a new folder; return notes on what was left out or differs.

    Args:
        model: Model folder, run folder, or bundled.
        out: New folder.
        steps: Grid points in the configuration; None: those that the model was imported with, else 50.
        data: LMDB or Parquet file from which `omg predict` takes its compositions; None: OMatG's own.

    Raises:
        ConfigError: `out` exists already.
        ModelError: The model cannot be read, or OMatG cannot express it; says why.
    """
    refuse_existing(out)
    loaded = FlowModel.load(model)
    with replace_folder(out) as folder:
        return export_omatg(loaded, folder, steps, data)
