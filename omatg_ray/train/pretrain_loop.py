"""The loop around the epochs of pretraining, and the checkpoints and metrics it writes.

Cluster workers run it too, so this module imports only what they need.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from omatg_ray.errors import ModelError, TrainingError
from omatg_ray.flow.pretrain import Losses, Pretrainer
from omatg_ray.model.description import ModelDescription
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.run.advice import command
from omatg_ray.run.folder import RunFolder
from omatg_ray.run.interrupt import Interrupted
from omatg_ray.run.metrics import MetricsLog
from omatg_ray.run.progress import Progress
from omatg_ray.run.state import describe_kept
from omatg_ray.run.storage import Storage
from omatg_ray.run.tracking import Tracking

TRAINER_FILE = "trainer.safetensors"
SHOWN = ("loss_pos", "loss_cell", "val_loss")


@dataclass(frozen=True)
class PretrainLoop:
    """The loop around the epochs and what it writes; can be sent to another process.

    Attributes:
        path: Run folder, as an absolute path.
        description: Description of the model, without the provenance of an epoch.
        keep: Number of checkpoints to keep besides best and last.
        progress: Show progress.
        storage: Where the run is kept.
        tracking: Services that receive the metrics.
    """

    path: Path
    description: ModelDescription
    keep: int
    progress: bool
    storage: Storage
    tracking: Tracking

    def run(self, trainer: Pretrainer, run_epoch: Callable[[], Losses], stopped: Callable[[], bool]) -> None:
        """Run the remaining epochs, with validations and checkpoints, from the last checkpoint if there is one.

        Args:
            trainer: Holds the weights.
            run_epoch: Runs an epoch on the trainer, and on the others that train with it.
            stopped: Returns whether to stop; called before every epoch.

        Raises:
            ModelError: The checkpoint is not one of pretraining, or belongs to a network of another size.
            TrainingError: The loss became NaN; the last checkpoint stays.
            Interrupted: It stopped before the last epoch, with a checkpoint.
        """
        folder, settings = RunFolder(self.path, self.storage), trainer.settings
        checkpoint = folder.latest_checkpoint()
        if checkpoint is not None:
            _restore(folder, checkpoint, trainer)
        saved, losses = trainer.epoch, Losses()
        with (
            MetricsLog(folder.path, trainer.epoch or None, self.tracking.start(folder.path)) as log,
            Progress(settings.epochs, "pretrain", trainer.epoch, self.progress) as bar,
        ):
            while trainer.epoch < settings.epochs and not stopped():
                start = time.perf_counter()
                try:
                    losses |= run_epoch()
                except TrainingError as error:
                    raise TrainingError(f"{error}. {describe_kept(folder)}") from error
                is_best, last = False, trainer.epoch == settings.epochs
                if last or trainer.epoch % settings.validate_every == 0:
                    losses |= trainer.validate()
                    is_best = losses["val_loss"] < trainer.best_val_loss
                    if is_best:
                        trainer.best_val_loss, trainer.best_epoch = losses["val_loss"], trainer.epoch
                    log.log("pretrain", trainer.epoch, losses | {"time_epoch": time.perf_counter() - start})
                bar.advance({name: f"{losses[name]:.4f}" for name in SHOWN if name in losses})
                if last or is_best or trainer.epoch % settings.checkpoint_every == 0:
                    self._save(folder, trainer, is_best)
                    saved = trainer.epoch
            if saved < trainer.epoch:
                self._save(folder, trainer, is_best=False)
        if trainer.epoch < settings.epochs:
            raise Interrupted(
                f"stopped after epoch {trainer.epoch} of {settings.epochs}; "
                f"resume with: {command('pretrain', '--resume', self.storage.called())}"
            )

    def _save(self, folder: RunFolder, trainer: Pretrainer, is_best: bool) -> None:
        provenance = {"epoch": trainer.epoch, "best_val_loss": trainer.best_val_loss}
        description = self.description.model_copy(update={"provenance": self.description.provenance | provenance})

        def write(path: Path) -> None:
            FlowModel(description, trainer.ema_network).save(path)
            save_file({k: v.contiguous() for k, v in trainer.state_dict().items()}, path / TRAINER_FILE)

        name = _name_of(trainer.epoch)
        folder.save_checkpoint(name, write, self.keep)
        if is_best:
            folder.point_best(name)
        folder.store()


def _restore(folder: RunFolder, checkpoint: Path, trainer: Pretrainer) -> None:
    if not (checkpoint / TRAINER_FILE).is_file():
        raise ModelError(f"{checkpoint} is not a checkpoint of pretraining; resume a run of train with train --resume")
    try:
        trainer.load_state_dict(load_file(checkpoint / TRAINER_FILE))
    except (RuntimeError, KeyError, ModelError, SafetensorError) as error:
        raise ModelError(
            f"{checkpoint} belongs to a network of another size; leave pretrain.network as it was to resume from it"
        ) from error
    if trainer.best_epoch == trainer.epoch:
        # If the process was killed after writing the checkpoint but before pointing to it, the best one would be lost.
        folder.point_best(checkpoint.name)
    if trainer.best_epoch:  # 0 before the first validation: there is no best one.
        folder.mend_pointers(checkpoint, lambda path: path.name == _name_of(trainer.best_epoch))


def _name_of(epoch: int) -> str:
    return f"epoch_{epoch:06d}"
