"""`omatg-ray pretrain`: a base model from crystals."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pymatgen.core import Element
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from omatg_ray.commands.setup import choose_device, describe_run, kept, load_splits, set_threads
from omatg_ray.config import Config
from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.crystal.split import Split
from omatg_ray.errors import ModelError, TrainingError
from omatg_ray.evaluate.report import write_report
from omatg_ray.flow.pretrain import Pretrainer
from omatg_ray.model import FlowModel, ModelDescription
from omatg_ray.run.folder import RunFolder
from omatg_ray.run.interrupt import Interrupted, StopRequest
from omatg_ray.run.metrics import MetricsLog
from omatg_ray.run.progress import Progress
from omatg_ray.run.versions import versions

TRAINER_FILE = "trainer.safetensors"
SHOWN = ("loss_pos", "loss_cell", "val_loss")


def pretrain(config: Config, resume: bool = False, progress: bool = True) -> Path:
    """Trains a base model; `best` is the checkpoint with the lowest validation loss of the averaged weights.

    Args:
        config: Uses `data` and `pretrain`.
        resume: Go on with the run in `config.run` from its last checkpoint, exactly.
        progress: Show progress.

    Returns:
        Folder of the best checkpoint, which `FlowModel.load` reads.

    Raises:
        ConfigError: The run folder holds a run already, or none to go on with.
        DataError: The crystals cannot be read or split.
        ModelError: The run to go on with has a network of another size.
        TrainingError: The loss became NaN; the last checkpoint stays.
        Interrupted: Stopped by the user at an epoch boundary, with a checkpoint.
    """
    set_threads(config)
    device = choose_device(config.device)
    split = load_splits(config.data, progress)
    base = BaseDistribution.fit(split.train.crystals.cell)
    train, val = split.train.crystals.to(device), split.val.crystals.to(device)
    trainer = Pretrainer(config.pretrain, train, val, base, config.seed)
    with RunFolder.create(config.run, resume) as folder, StopRequest("this epoch") as stop:
        checkpoint = folder.latest_checkpoint() if resume else None
        if checkpoint is not None:
            _restore(folder, checkpoint, trainer)
        describe_run(folder, config, split)
        _fit(config, trainer, folder, _provenance(config, split), split, stop, progress)
        if trainer.epoch < config.pretrain.epochs:
            raise Interrupted(
                f"stopped after epoch {trainer.epoch} of {config.pretrain.epochs}; "
                f"go on with: omatg-ray pretrain --resume {config.run}"
            )
        write_report(folder.path)
        return folder.checkpoints / "best"


def _fit(
    config: Config,
    trainer: Pretrainer,
    folder: RunFolder,
    provenance: dict[str, Any],
    split: Split,
    stop: StopRequest,
    progress: bool,
) -> None:
    """The loop: an epoch, now and then a validation, a checkpoint."""
    settings, saved = config.pretrain, trainer.epoch
    losses: dict[str, float] = {}

    def save(is_best: bool) -> None:
        def write(path: Path) -> None:
            _model(trainer, split, provenance).save(path)
            save_file({k: v.contiguous() for k, v in trainer.state_dict().items()}, path / TRAINER_FILE)

        name = f"epoch_{trainer.epoch:06d}"
        folder.save_checkpoint(name, write, config.checkpoint.keep)
        if is_best:
            folder.point_best(name)

    with (
        MetricsLog(folder.path, resume_from=trainer.epoch or None) as log,
        Progress(settings.epochs, "pretrain", trainer.epoch, progress) as bar,
    ):
        while trainer.epoch < settings.epochs and not stop.requested:
            start = time.perf_counter()
            try:
                losses |= trainer.run_epoch()
            except TrainingError as error:
                raise TrainingError(f"{error}. {kept(folder)}") from error
            is_best, last = False, trainer.epoch == settings.epochs
            if last or trainer.epoch % settings.validate_every == 0:
                losses |= trainer.validate()
                is_best = losses["val_loss"] < trainer.best_val_loss
                if is_best:
                    trainer.best_val_loss, trainer.best_epoch = losses["val_loss"], trainer.epoch
                log.log("pretrain", trainer.epoch, losses | {"time_epoch": time.perf_counter() - start})
            bar.advance({name: f"{losses[name]:.4f}" for name in SHOWN if name in losses})
            if last or is_best or trainer.epoch % settings.checkpoint_every == 0:
                save(is_best)
                saved = trainer.epoch
        if saved < trainer.epoch:
            save(is_best=False)


def _restore(folder: RunFolder, checkpoint: Path, trainer: Pretrainer) -> None:
    if not (checkpoint / TRAINER_FILE).is_file():
        raise ModelError(f"{checkpoint} is no checkpoint of pretraining; a run of train goes on with train --resume")
    try:
        trainer.load_state_dict(load_file(checkpoint / TRAINER_FILE))
    except (RuntimeError, KeyError, ModelError, SafetensorError) as error:
        raise ModelError(
            f"{checkpoint} belongs to a network of another size; leave pretrain.network as it was to go on with it"
        ) from error
    if trainer.best_epoch == trainer.epoch:
        # A kill between writing a checkpoint and pointing to it would lose the best one for good.
        folder.point_best(checkpoint.name)


def _provenance(config: Config, split: Split) -> dict[str, Any]:
    return {
        "command": "pretrain",
        "data": str(config.data.file or config.data.train),
        "training_crystals": len(split.train),
        "seed": config.seed,
        "versions": versions(),
    }


def _model(trainer: Pretrainer, split: Split, provenance: dict[str, Any]) -> FlowModel:
    description = ModelDescription(
        network=trainer.settings.network,
        paths=trainer.settings.paths,
        base_distribution=trainer.base,
        elements=[Element.from_Z(z).symbol for z in sorted(split.train.elements)],
        sizes=sorted(split.train.sizes),
        provenance=provenance | {"epoch": trainer.epoch, "best_val_loss": trainer.best_val_loss},
    )
    return FlowModel(description, trainer.ema_network)
