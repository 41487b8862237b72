"""Ray Tune's state of a sweep: an intact copy of it, and a check against the sweep's results before it is resumed.

Tune copies its files into the folder of a sweep piece by piece, so a full disk or a kill can leave half a file. If Tune
cannot read its files, it silently starts the sweep over.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omatg_ray.errors import DataError
from omatg_ray.run.advice import command
from omatg_ray.run.atomic import write_bytes
from omatg_ray.run.text import counted
from omatg_ray.tune.results import FINISHED, STOPPED, TRIALS, TRIALS_FILE, Sweep
from omatg_ray.tune.trainable import name_in_tune

FOLDER = "tune"
"""Ray Tune's own files, in the folder of a sweep."""
KEPT = "tune.tar"
"""An intact copy of Tune's state, without checkpoints; beside `FOLDER`."""
STATE = "experiment_state-"
"""Prefix of the file of all trials, before the time at which a driver started."""
TUNER = "tuner.pkl"
"""The request, not the state; every driver rewrites it."""


def keep_state(folder: Path, trials: Sequence[Any], kept: int) -> int:
    """Copy what Tune last wrote on this machine, if that is new.

    Args:
        folder: Folder of the sweep.
        trials: Tune's trials.
        kept: Time of the state in the copy, as this function returned it; at first 0.

    Returns:
        Time of the state that is now in the copy, in nanoseconds.

    Raises:
        DiskError: The disk is full; the previous copy is intact.
    """
    if not trials:
        return kept
    staged = Path(trials[0].storage.experiment_driver_staging_path)
    newest = max(staged.glob(f"{STATE}*.json"), default=None)
    if newest is None or newest.stat().st_mtime_ns == kept:
        return kept
    written = newest.stat().st_mtime_ns
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        # Only the files of the last driver; those of earlier drivers are there too.
        for path in sorted(staged.glob(f"*{newest.stem.removeprefix(STATE)}.*")):
            archive.add(path, path.name)
    write_bytes(folder / KEPT, buffer.getvalue())
    return written


def bring_back(folder: Path) -> bool:
    """Restore Tune's state from the last intact copy.

    Returns:
        Whether there is a state that Tune can resume from.

    Raises:
        DataError: The copy is damaged; nothing was changed.
        DiskError: The disk is full.
    """
    archive_path, target = folder / KEPT, folder / FOLDER
    if not archive_path.is_file():
        return (folder / TRIALS_FILE).is_file() and _can_be_read(max(target.glob(f"{STATE}*.json"), default=None))
    try:
        with tarfile.open(archive_path, "r:") as archive:
            files = {member.name: archive.extractfile(member) for member in archive.getmembers() if member.isfile()}
            contents = {Path(name).name: file.read() for name, file in files.items() if file is not None}
    except (tarfile.TarError, EOFError) as error:
        raise DataError(
            f"{archive_path}, the copy of Ray Tune's state of this sweep, is damaged ({error}). Nothing was changed; "
            f"restore it from a backup, or remove it to resume from {target}"
        ) from error
    for path in target.glob("*"):
        if path.suffix in (".json", ".pkl") and path.name not in (TUNER, *contents):
            path.unlink()
    for name, data in contents.items():
        write_bytes(target / name, data)
    return True


def _can_be_read(state: Path | None) -> bool:
    try:
        return state is not None and bool(json.loads(state.read_bytes()))
    except ValueError:
        return False


def refuse_loss(folder: Path, trials: Sequence[Any]) -> None:
    """Refuse to resume if Tune has lost trials that the sweep has results of.

    Raises:
        DataError: Some are missing; names them, and says what can be done.
    """
    if not (folder / TRIALS_FILE).is_file():
        return
    known, restored = Sweep.read(folder).trials, {name_in_tune(trial) for trial in trials}
    # A trial that had only just begun when its driver was killed simply begins again.
    done = (FINISHED, STOPPED)
    missing = [trial.name for trial in known if trial.name not in restored and (trial.status in done or not restored)]
    if missing:
        raise DataError(
            f"Ray Tune's state of this sweep, {folder / FOLDER}, is lost or damaged: of "
            f"{counted(len(known), 'trial')} it lacks {', '.join(missing)}. Nothing was changed: their results are in "
            f"{TRIALS_FILE} and {TRIALS}/. Restore {FOLDER}/ or {KEPT} from a backup, or start a new sweep in "
            f"another folder: {command('tune', folder / 'sweep.yaml', 'run=OTHER')}"
        )
