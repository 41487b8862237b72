"""Sessions of pretraining in which something happens to the workers; the workers import them from here."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omatg_ray.flow.pretrain import Losses, Pretrainer
from omatg_ray.run.atomic import disk_errors
from omatg_ray.train.pretrain_loop import PretrainLoop
from omatg_ray.tune.trial import SweepRuns, TrialRun

Epoch = Callable[[], Losses]
Stopped = Callable[[], bool]


def siblings() -> list[int]:
    """Processes of other workers of Ray Train on this node."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words, status = (folder / "cmdline").read_text(), (folder / "stat").read_text()
        except OSError:
            continue  # it has ended
        parent = int(status.rpartition(")")[2].split()[1])
        if parent == os.getppid() and words.startswith("ray::RayTrainWorker") and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


class Counted(PretrainLoop):
    """Writes down how many ranks there are, and what they train."""

    def run(self, trainer: Pretrainer, run_epoch: Epoch, stopped: Stopped) -> None:
        (self.path / "ranks").write_text(f"{trainer.process_group.size} {type(trainer._trained).__name__}")
        super().run(trainer, run_epoch, stopped)


class Killed(PretrainLoop):
    """Kills the worker of rank 0 before epoch 4, and later that of rank 1 before epoch 6."""

    def run(self, trainer: Pretrainer, run_epoch: Epoch, stopped: Stopped) -> None:
        def epoch() -> Losses:
            for done, kill in ((3, lambda: os.kill(os.getpid(), signal.SIGKILL)), (5, self.kill_sibling)):
                marker = self.path / f"killed_after_{done}"
                if trainer.epoch == done and not marker.exists():
                    marker.touch()
                    kill()
            return run_epoch()

        super().run(trainer, epoch, stopped)

    def kill_sibling(self) -> None:
        (other,) = siblings()
        os.kill(other, signal.SIGKILL)


class Interrupting(PretrainLoop):
    """Sends Ctrl-C to the driver after epoch 3, and gives it time to pass it on."""

    def run(self, trainer: Pretrainer, run_epoch: Epoch, stopped: Stopped) -> None:
        def asked() -> bool:
            if trainer.epoch == 3:
                os.kill(int((self.path / "driver").read_text()), signal.SIGINT)
                end = time.monotonic() + 20
                while not stopped() and time.monotonic() < end:
                    time.sleep(0.02)
            return stopped()

        super().run(trainer, run_epoch, asked)


@dataclass(frozen=True)
class OnFullDisk(SweepRuns):
    """A sweep whose second trial finds the disk full in its second step, as long as the file `full` is there."""

    def start(self, values: Mapping[str, Any], name: str) -> TrialRun:
        return (Full if name == "00001" else TrialRun)(self, values, name)


class Full(TrialRun):
    def step(self) -> dict[str, Any]:
        full = self._sweep.settings.run / "full"
        if full.exists() and self._sweep.lines(self._name):
            with disk_errors(self._sweep.folder(self._name)):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().step()
