"""`omatg-ray pretrain`: a base model from crystals."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from omatg_ray.config import Config
from omatg_ray.crystal.domain import Domain
from omatg_ray.flow.pretrain import Pretrainer, Recipe
from omatg_ray.model.description import ModelDescription
from omatg_ray.run.folder import RunFolder
from omatg_ray.run.interrupt import StopRequest
from omatg_ray.run.location import Location
from omatg_ray.run.versions import versions
from omatg_ray.train.device import choose_device, set_threads
from omatg_ray.train.early import potential_that_decides
from omatg_ray.train.pretrain_loop import PretrainLoop
from omatg_ray.train.record import describe_run, tracking_of
from omatg_ray.train.splits import load_splits
from omatg_ray.train.start import take_start, warn_of_warmup
from omatg_ray.train.unknown import known_to


def pretrain(config: Config, resume: bool | Path = False, progress: bool = True) -> Location:
    """Train a base model. `best` is the checkpoint with the lowest validation loss of the averaged weights.

    With `ray.pretrain.workers`, data-parallel workers on Ray Train do the training. One of them writes checkpoints and
    metrics, so the run folder has to be on storage that all nodes share.

    Args:
        config: Uses `data`, `pretrain`, and the part of `ray` that concerns pretraining.
        resume: Resume the run in `config.run` from its last checkpoint, exactly. If that is a URL, this may be the
            scratch folder of an earlier process that could not store it there.
        progress: Show progress.

    Returns:
        Folder of the best checkpoint, or its URL, which `FlowModel.load` reads.

    Raises:
        ConfigError: The run folder holds a run already, or no run to resume, or one with other settings; a package of
            `tracking` is not installed; unknown elements are to be left out and no potential is named; or as
            `take_start`.
        DataError: The crystals cannot be read or split.
        ModelError: The checkpoint to resume from is not one of pretraining, or belongs to a network of another size.
        TrainingError: The loss became NaN; the last checkpoint stays.
        ClusterError: The cluster cannot be reached, has no room for the workers, or lost them too often.
        StorageError: The URL of the run cannot be reached, or the end of the run cannot be stored; names the folder
            that holds it.
        Interrupted: Stopped by the user at an epoch boundary, with a checkpoint.
    """
    config, start = take_start(config)
    tracking = tracking_of(config)
    on_workers = config.ray.pretrain.workers > 0
    with ExitStack() as stack:
        # Checks that fail within seconds come before loading the data, which may take minutes.
        if on_workers:
            from omatg_ray.train.ray_train import joined_with_room, train_on_workers

            stack.enter_context(joined_with_room(config.ray, progress))
        else:
            set_threads(config.threads)
            device = choose_device(config.device)
        split = load_splits(config.data, progress, known_to_potential(config))
        train, val = split.train.crystals, split.val.crystals
        base = start.base_for(train, config.pretrain)
        recipe = Recipe(Pretrainer, config.pretrain, train, val, base, config.seed, start=start.weights)
        warn_of_warmup(config.pretrain, len(train))
        trainer = None if on_workers else recipe(device=device)
        folder = stack.enter_context(RunFolder.create(config.run, resume))
        stop = stack.enter_context(StopRequest("this epoch"))
        describe_run(folder, config, split)
        description = ModelDescription(
            network=config.pretrain.network,
            paths=config.pretrain.paths,
            base_distribution=base,
            elements=split.train.symbols,
            sizes=sorted(split.train.sizes),
            domain=Domain.of(train),
            provenance={
                "command": "pretrain",
                "data": str(config.data.file or config.data.train),
                "training_crystals": len(split.train),
                **({"start": str(config.pretrain.start)} if config.pretrain.start else {}),
                "seed": config.seed,
                "versions": versions(),
            },
        )
        path, keep = folder.path.absolute(), config.checkpoint.keep
        loop = PretrainLoop(path, description, keep, progress, folder.storage, tracking)
        if trainer is None:
            train_on_workers(recipe, loop, config.ray, lambda: stop.requested)
        else:
            loop.run(trainer, trainer.run_epoch, lambda: stop.requested)
        from omatg_ray.report.run import write_report  # not before: matplotlib takes half a second

        write_report(folder.path)
        return folder.named(folder.checkpoints / "best")


def known_to_potential(config: Config) -> dict[str, frozenset[int]] | None:
    """Return the elements that crystals may have if `data.drop_unknown` is set: those of the potential to come.

    Raises:
        ConfigError: It is set, and no potential is named.
        PotentialError: The potential cannot be loaded.
    """
    potential = potential_that_decides(config)
    if potential is None:
        return None
    from omatg_ray.reward.potential import load_potential  # imports MatGL, which pretraining does not need otherwise

    return known_to(load_potential(potential))
