"""What Ray Tune knows of a sweep: kept whole, and compared with what the sweep has found before it goes on.

Tune copies its files into the folder of a sweep bit by bit, so that a full disk or a kill leaves half of one; and where
it cannot read them, it starts the sweep over without a word.
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
from omatg_ray.tune.trainable import name_of

FOLDER = "tune"
"""In the folder of a sweep: what Ray Tune keeps."""
KEPT = "tune.tar"
"""Beside it: a whole copy of its state, without checkpoints."""
STATE = "experiment_state-"
"""What the name of the file of all trials begins with, before the time at which a driver started."""
TUNER = "tuner.pkl"
"""What was asked for: no state, and written anew by every driver."""


class StateKeeper:
    """Keeps a copy of Tune's state, as of one moment, that is either whole or that of before.

    Args:
        folder: Of the sweep.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._written = folder, 0

    def keep(self, trials: Sequence[Any]) -> None:
        """Keeps what Tune last wrote for itself, on this machine, if that is new.

        Raises:
            DiskError: The disk is full; what was kept before still is.
        """
        if not trials:
            return
        staged = Path(trials[0].storage.experiment_driver_staging_path)
        newest = max(staged.glob(f"{STATE}*.json"), default=None)
        if newest is None or newest.stat().st_mtime_ns == self._written:
            return
        self._written = newest.stat().st_mtime_ns
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            # All of one driver: those of earlier ones lie there too.
            for path in sorted(staged.glob(f"*{newest.stem.removeprefix(STATE)}.*")):
                archive.add(path, path.name)
        write_bytes(self._folder / KEPT, buffer.getvalue())


def bring_back(folder: Path) -> bool:
    """Puts Tune's state into its place as it was last whole.

    Returns:
        Whether there is anything that Tune can go on from.

    Raises:
        DataError: What was kept of it is damaged; nothing was changed.
        DiskError: The disk is full.
    """
    kept, place = folder / KEPT, folder / FOLDER
    if not kept.is_file():
        return (folder / TRIALS_FILE).is_file() and _can_be_read(max(place.glob(f"{STATE}*.json"), default=None))
    try:
        with tarfile.open(kept, "r:") as archive:
            files = {member.name: archive.extractfile(member) for member in archive.getmembers() if member.isfile()}
            found = {Path(name).name: file.read() for name, file in files.items() if file is not None}
    except (tarfile.TarError, EOFError) as error:
        raise DataError(
            f"{kept}, which holds what Ray Tune knows of this sweep, is damaged ({error}). Nothing was changed; bring "
            f"it back from a backup, or remove it to go on from {place}"
        ) from error
    for path in place.glob("*"):
        if path.suffix in (".json", ".pkl") and path.name not in (TUNER, *found):
            path.unlink()
    for name, data in found.items():
        write_bytes(place / name, data)
    return True


def _can_be_read(state: Path | None) -> bool:
    try:
        return state is not None and bool(json.loads(state.read_bytes()))
    except ValueError:
        return False


def refuse_loss(folder: Path, trials: Sequence[Any]) -> None:
    """Refuses to go on with trials of Tune among which are not those that the sweep has results of.

    Raises:
        DataError: Some are missing; names them, and says what can be done.
    """
    if not (folder / TRIALS_FILE).is_file():
        return
    known, restored = Sweep.read(folder).trials, {name_of(trial.trial_id, trial.config) for trial in trials}
    # One that had just begun when its driver was killed begins again.
    done = (FINISHED, STOPPED)
    missing = [one.name for one in known if one.name not in restored and (one.status in done or not restored)]
    if missing:
        raise DataError(
            f"what Ray Tune knew of this sweep, {folder / FOLDER}, is lost or damaged: of "
            f"{counted(len(known), 'trial')} it lacks {', '.join(missing)}. Nothing was changed: what they found is in "
            f"{TRIALS_FILE} and {TRIALS}/. Bring {FOLDER}/ or {KEPT} back from a backup, or start the sweep anew in "
            f"another folder: {command('tune', folder / 'sweep.yaml', 'run=OTHER')}"
        )
