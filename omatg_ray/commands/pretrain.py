"""`omatg-ray pretrain`: a base model from crystals."""

from __future__ import annotations

import time
from pathlib import Path

from pymatgen.core import Element
from safetensors.torch import load_file, save_file

from omatg_ray.commands.setup import choose_device, describe_run, load_splits, set_threads, write_splits
from omatg_ray.config import Config
from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.crystal.split import Split
from omatg_ray.evaluate.report import write_report
from omatg_ray.flow.pretrain import Pretrainer
from omatg_ray.model import FlowModel, ModelDescription
from omatg_ray.run.folder import RunFolder
from omatg_ray.run.interrupt import Interrupted, StopRequest
from omatg_ray.run.metrics import MetricsLog
from omatg_ray.run.progress import Progress
from omatg_ray.run.versions import versions

TRAINER_FILE = "trainer.safetensors"


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
        TrainingError: The loss became NaN; the last checkpoint stays.
        Interrupted: Stopped by the user at an epoch boundary, with a checkpoint.
    """
    set_threads(config)
    device = choose_device(config.device)
    split = load_splits(config.data, progress)
    settings = config.pretrain
    with RunFolder.create(config.run, resume) as folder, StopRequest() as stop:
        base = BaseDistribution.fit(split.train.crystals.cell)
        trainer = Pretrainer(settings, split.train.crystals.to(device), split.val.crystals.to(device), base, config.seed)
        checkpoint = folder.latest_checkpoint() if resume else None
        if checkpoint is not None:
            trainer.load_state_dict(load_file(checkpoint / TRAINER_FILE, device=str(device)))
        if not resume:
            describe_run(folder, config)
            write_splits(folder, split)

        def save(best: bool) -> None:
            name = f"epoch_{trainer.epoch:06d}"

            def write(path: Path) -> None:
                _model(config, trainer, split).save(path)
                save_file({k: v.contiguous() for k, v in trainer.state_dict().items()}, path / TRAINER_FILE)

            folder.save_checkpoint(name, write, config.checkpoint.keep)
            if best:
                folder.point_best(name)

        saved = trainer.epoch
        with (
            MetricsLog(folder.path, resume_from=trainer.epoch if resume else None) as log,
            Progress(settings.epochs, "pretrain", trainer.epoch, progress) as bar,
        ):
            values: dict[str, float] = {}
            while trainer.epoch < settings.epochs and not stop.requested:
                start = time.perf_counter()
                values = values | trainer.run_epoch()
                epoch, best = trainer.epoch, False
                if epoch % settings.validate_every == 0 or epoch == settings.epochs:
                    values |= trainer.validate()
                    best = values["val_loss"] < trainer.best_val_loss
                    trainer.best_val_loss = min(trainer.best_val_loss, values["val_loss"])
                    log.log("pretrain", epoch, values | {"time_epoch": time.perf_counter() - start})
                bar.advance({k: values[k] for k in ("loss_pos", "loss_cell", "val_loss") if k in values})
                if best or epoch % settings.checkpoint_every == 0 or epoch == settings.epochs:
                    save(best)
                    saved = epoch
            if saved < trainer.epoch:
                save(best=False)
        if trainer.epoch < settings.epochs:
            raise Interrupted(
                f"stopped after epoch {trainer.epoch} of {settings.epochs}; "
                f"go on with: omatg-ray pretrain --resume {config.run}"
            )
        write_report(folder.path)
        return folder.checkpoints / "best"


def _model(config: Config, trainer: Pretrainer, split: Split) -> FlowModel:
    description = ModelDescription(
        network=config.pretrain.network,
        paths=config.pretrain.paths,
        base_distribution=trainer.base,
        elements=[Element.from_Z(z).symbol for z in sorted(split.train.elements)],
        sizes=sorted(split.train.sizes),
        provenance={
            "command": "pretrain",
            "data": str(config.data.file or config.data.train),
            "training_crystals": len(split.train),
            "epoch": trainer.epoch,
            "seed": config.seed,
            "best_val_loss": trainer.best_val_loss,
            "versions": versions(),
        },
    )
    return FlowModel(description, trainer.ema_network)
