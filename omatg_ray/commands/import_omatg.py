"""`omatg-ray import-omatg`: conversion of a model of OMatG to a model folder."""

from __future__ import annotations

from pathlib import Path

from omatg_ray.errors import ConfigError, ModelError
from omatg_ray.run.atomic import replace_folder
from omatg_ray.run.location import Location, as_base


def import_model(
    checkpoint: Path,
    config: Path,
    out: Path,
    base: Location | None = None,
    data: Path | None = None,
    progress: bool = False,
) -> list[str]:
    """Import a checkpoint and write the model folder; return notes on what was left out or differs, in sentences.

    Args:
        checkpoint: Lightning checkpoint of OMatG.
        config: Its configuration.
        out: New model folder.
        base: Model that reinforcement started from; None for a base model.
        data: Training crystals, which give the elements and cell sizes that a base model knows.
        progress: Show a progress bar while they are read.

    Raises:
        ConfigError: `out` exists already.
        ModelError: The files cannot be read, do not fit together, or cannot be converted.
        DataError: The training crystals cannot be read.
    """
    refuse_existing(out)
    for file in (checkpoint, config):
        if not file.exists():
            raise ModelError(f"{file} cannot be read: there is no such file")
    from omatg_ray.model.flow_model import FlowModel
    from omatg_ray.omatg.read import import_omatg

    imported = import_omatg(checkpoint, config, None if base is None else FlowModel.load(as_base(base)), data, progress)
    with replace_folder(out) as folder:
        imported.model.save(folder)
    return imported.notes


def refuse_existing(out: Path) -> None:
    """Refuse to overwrite a file or a folder with contents.

    Raises:
        ConfigError: There is one.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"--out {out} exists already; name a new folder")
