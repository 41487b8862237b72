"""Pretraining on Ray Train: data-parallel workers around the loop that runs in one process otherwise.

Checkpoints and metrics are those of the run folder, with or without Ray. Ray Train starts the workers, connects them,
and starts them anew when one has died; they then go on from the last checkpoint of the run folder.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from threading import Thread
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.exceptions import RayActorError
from ray.train import ScalingConfig, TrainingFailedError, UserCallback, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer, get_device, prepare_model

from omatg_ray.distributed.cluster import joined, room
from omatg_ray.distributed.settings import RaySettings, Share
from omatg_ray.distributed.software import refuse_other
from omatg_ray.errors import ClusterError, OmatgRayError, TrainingError
from omatg_ray.flow.pretrain import Losses, Pretrainer, Recipe
from omatg_ray.flow.process_group import DefaultProcessGroup
from omatg_ray.run.progress import print_line
from omatg_ray.run.quiet import quiet_libraries
from omatg_ray.run.versions import software
from omatg_ray.train.pretrain_loop import PretrainLoop

# What it exports at run time are the classes of V2, of which type checkers know nothing.
V2: Any = ray.train

RESTARTS = 3
"""How often dead workers are replaced in a run. Preempted nodes do not count."""
GO = "go"


@dataclass(frozen=True)
class Job:
    """What every worker gets.

    Attributes:
        recipe: Makes the trainer.
        share: What a worker has of its node.
        software: What the driver runs.
        signals: Folder that the driver made inside the run folder; it holds the file `go` until the run shall stop.
    """

    recipe: Recipe
    share: Share
    software: Mapping[str, str]
    signals: Path


@contextmanager
def joined_with_room(settings: RaySettings, progress: bool = False) -> Iterator[None]:
    """Joins the cluster, for as long as the context lasts, and looks whether it has room for the workers.

    Raises:
        ClusterError: The cluster cannot be reached, or has no room for the workers.
    """
    share = settings.pretrain
    with joined(settings, progress) as cluster:
        # Ray Train would wait for a minute, and then again.
        with room([("pretraining worker", share.bundle)] * share.workers, settings, cluster.grows):
            pass
        if progress:
            print_line(f"{cluster.address}: room for {share.workers} workers")
        yield


def train_on_workers(recipe: Recipe, loop: PretrainLoop, settings: RaySettings, stopped: Callable[[], bool]) -> None:
    """Lets workers on the cluster that was joined train what a recipe says; rank 0 runs the loop.

    Args:
        recipe: Makes the trainer, on every worker.
        loop: The epochs and what they write.
        settings: The cluster.
        stopped: Whether the user asked for a stop.

    Raises:
        OmatgRayError: What the loop raises.
        ClusterError: The workers could not be kept alive.
    """
    share = settings.pretrain
    # It announces nodes that are about to go, which nobody here asks for, and costs an actor.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # Ray Train looks a minute each time for a place for new workers, silently.
    searches = max(2, math.ceil(settings.wait / 60))
    # Under a name that the next run in this folder removes, should this process be killed.
    with TemporaryDirectory(dir=loop.path, prefix=".ray_train.", suffix=".tmp") as name:
        signals = Path(name)
        (signals / GO).touch()

        def look() -> None:
            if stopped():
                (signals / GO).unlink(missing_ok=True)

        trainer = _Trainer(
            _work,
            train_loop_config={"job": ray.put(Job(recipe, share, software(), signals)), "loop": ray.put(loop)},
            # NCCL refuses two ranks on one GPU.
            torch_config=TorchConfig(backend="nccl" if share.gpus == 1 else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=share.workers,
                use_gpu=share.gpus > 0,
                resources_per_worker=share.bundle,
                placement_strategy=settings.strategy.upper(),
            ),
            run_config=V2.RunConfig(
                name="pretrain",
                storage_path=name,
                failure_config=V2.FailureConfig(max_failures=RESTARTS, controller_failure_limit=searches),
                callbacks=[_Restarts()],
                # Tracebacks of workers that lost another one; what ends a run is raised here.
                logging_config=V2.LoggingConfig(log_level="CRITICAL"),
            ),
        )
        error = _watch(trainer, look).return_value
    if error is not None:
        raise error


class _Trainer(TorchTrainer):
    """Without the actor that gives back the workers' room when the controller is killed: the end of the job does."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
        # That actor asks the dashboard, and leaves a traceback where there is none.
        return [callback for callback in callbacks if type(callback).__name__ != "PlacementGroupCleanerCallback"]


def _watch(trainer: TorchTrainer, look: Callable[[], None]) -> Any:
    """The result of `fit`, which runs in a thread: in the main thread it would take Ctrl-C for an abort."""
    future: Future[Any] = Future()

    def fit() -> None:
        try:
            future.set_result(trainer.fit())
        except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
            future.set_exception(error)

    # A daemon: a second Ctrl-C must not wait for it.
    Thread(target=fit, name="ray-train", daemon=True).start()
    while not wait([future], timeout=0.2).done:
        look()
    try:
        return future.result()
    except WorkerGroupError as error:
        for failure in error.worker_failures.values():
            if isinstance(failure, OmatgRayError):
                raise failure from error
        raise ClusterError(f"pretraining's workers failed more than {RESTARTS} times. {error}") from error
    except (TrainingFailedError, RayActorError) as error:
        raise ClusterError(f"pretraining on Ray Train failed. {error}") from error


class _Restarts(UserCallback):
    """Says why training goes back to a checkpoint; runs in Ray Train's controller."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        # Ray Train wraps what it heard from a dead worker; the others only say that they lost a connection.
        causes = {rank: getattr(error, "health_check_failure", error) for rank, error in worker_exceptions.items()}
        dead = {rank: error for rank, error in causes.items() if isinstance(error, RayActorError)}
        reasons = (f"worker {rank}: {' '.join(str(error).split())}" for rank, error in (dead or causes).items())
        print_line(
            f"pretraining lost workers, and goes on from its last checkpoint; {shorten('; '.join(reasons), 300)}"
        )


def _work(config: dict[str, Any]) -> Any:
    """What every worker does; an error that ends the run is what rank 0 returns.

    Whatever is raised instead makes Ray Train start all workers again: those that lost another one end like that.
    """
    job: Job = ray.get(config["job"])
    quiet_libraries()
    torch.set_num_threads(job.share.n_threads)
    refuse_other(software(), "a pretraining worker", ray.util.get_node_ip_address(), job.software)
    device = get_device()
    if job.share.gpus and device.type == "cpu":
        where = f"node {socket.gethostname()} lends {job.share.gpus:g} GPU"
        raise ClusterError(f"{where}, but PyTorch sees none; install its CUDA build there")
    try:
        trainer = job.recipe.trainer(device, DefaultProcessGroup(), prepare_model)
    except OmatgRayError as error:
        return error  # the same on all ranks
    if trainer.process_group.rank == 0:
        return _lead(trainer, ray.get(config["loop"]), job.signals)
    _follow(trainer)
    return None


def _lead(trainer: Pretrainer, loop: PretrainLoop, signals: Path) -> OmatgRayError | None:
    """Rank 0: runs the loop, and tells the others of every epoch."""
    announced = False

    def run_epoch() -> Losses:
        nonlocal announced
        state = {} if announced else {name: value.cpu() for name, value in trainer.state_dict().items()}
        _from_first(trainer, state)
        announced = True
        return trainer.run_epoch()

    error: OmatgRayError | None = None
    try:
        if not signals.is_dir():
            raise ClusterError(
                f"the run folder {loop.path} is not there on node {socket.gethostname()}, whose worker has to "
                "write it; with ray.pretrain.workers, run= must lie on storage that all nodes share"
            )
        loop.run(trainer, run_epoch, lambda: not (signals / GO).exists())
    except OmatgRayError as failure:
        error = failure
    except torch.OutOfMemoryError as failure:
        if trainer.process_group.size > 1:
            raise  # the others wait for this rank in the middle of an epoch; its end is what they notice
        error = TrainingError(f"{failure}; lower pretrain.batch_size, or use more workers")
    _from_first(trainer, None)
    return error


def _follow(trainer: Pretrainer) -> None:
    """The other ranks: an epoch whenever rank 0 says so, the first from the state that rank 0 starts from."""
    state: dict[str, torch.Tensor] | None = None
    while (state := _from_first(trainer, state)) is not None:
        if state:
            trainer.load_state_dict(state)
        # Rank 0 raises the same, and reports it.
        with contextlib.suppress(TrainingError):
            trainer.run_epoch()


def _from_first(trainer: Pretrainer, state: dict[str, torch.Tensor] | None) -> dict[str, torch.Tensor] | None:
    """What rank 0 gave; what the others give is not looked at."""
    if trainer.process_group.size == 1:
        return state
    box = [state]
    dist.broadcast_object_list(box, src=0)
    return box[0]
